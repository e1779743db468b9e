"""A plain text's log probabilities as OpenAI's completions tell them: four lists beside one another. Knows no requests.

Decides where in the text a token begins: tokens are strings of bytes, which need not be whole characters, so its place is counted in the
characters that have begun before it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydantic_core import to_json

from stages.llm.messages import TokenLogprob

LEAST = -9999.0
"""JSON has no infinities; OpenAI says this for what is next to impossible."""
_AT_ONCE = 256  # tokens that are written at a time


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Of a prompt: nothing tells how likely it was. `is_mark`: it is not written in the text."""

    text: str
    is_mark: bool


class Offsets:
    """Of the tokens of one text, in their order."""

    def __init__(self) -> None:
        self._at: int | None = None

    def of(self, data: bytes, text: str) -> int:
        """Where a token of these bytes begins. `text`: that it stands in, as far as it is known."""
        if self._at is None:
            self._at = (
                -1 if data.startswith(b" ") and not text.startswith(" ") else 0
            )  # a word's blank is dropped at the beginning
        begins_within = bool(data) and _continues(data[0])
        at = self._at - begins_within
        self._at += sum(not _continues(byte) for byte in data)
        return max(0, at)

    def end(self) -> int:
        return max(0, self._at or 0)


def _continues(byte: int) -> bool:
    """Whether a byte is a character's second, third or fourth."""
    return byte & 0xC0 == 0x80


@dataclass(slots=True)
class TextLogprobs:
    """What is told of some tokens, one behind the other, ready to be written."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]

    @classmethod
    def none(cls) -> "TextLogprobs":
        return cls([], [], [], [])

    def add_first(self, first: FirstToken, offsets: Offsets, text: str) -> None:
        self._add(first.text, None, None, 0 if first.is_mark else offsets.of(first.text.encode(), text))

    def add(self, entries: Iterable[TokenLogprob], offsets: Offsets, text: str) -> None:
        for entry in entries:
            self._add(entry.text, _finite(entry.logprob), _likeliest(entry), offsets.of(entry.data, text))

    def add_end(self, entry: TokenLogprob, offsets: Offsets) -> None:
        """What ended the text, and is not in it."""
        self._add(entry.text, _finite(entry.logprob), _likeliest(entry), offsets.end())

    def _add(self, token: str, logprob: float | None, top: dict[str, float] | None, offset: int) -> None:
        self.tokens.append(token)
        self.token_logprobs.append(logprob)
        self.top_logprobs.append(top)
        self.text_offset.append(offset)

    def to_json(self) -> Iterator[bytes]:
        """In pieces."""
        for index, name in enumerate(("tokens", "token_logprobs", "top_logprobs", "text_offset")):
            yield b"{" if not index else b","
            yield b'"' + name.encode() + b'":['
            yield from _members(getattr(self, name))
            yield b"]"
        yield b"}"


def _members(values: Sequence[object]) -> Iterator[bytes]:
    for at in range(0, len(values), _AT_ONCE):
        yield (b"," if at else b"") + to_json(values[at : at + _AT_ONCE])[1:-1]


def _likeliest(entry: TokenLogprob) -> dict[str, float]:
    """By text: of several tokens with the same one, the likeliest."""
    found: dict[str, float] = {}
    for other in (*entry.top, entry):
        found[other.text] = max(_finite(other.logprob), found.get(other.text, LEAST))
    return found


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)
