"""From tokens to text that can be shown: never half a character, never a stop string.

Decides when text is ready and where it ends. Knows no model and no sampling.
"""

from dataclasses import dataclass
from functools import lru_cache

from tokenizers import Tokenizer

from stages.llm.messages import TokenLogprob

_BROKEN = "\N{REPLACEMENT CHARACTER}"
_MAX_CHARACTER_BYTES = 4  # in UTF-8
_REMEMBERED = 16_384
"""Tokens whose text is remembered: twenty likely ones are told a step and row."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Text (and its tokens' log probabilities) that can be shown now; `stopped`: a stop string follows, and nothing else."""

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    stopped: bool = False


class StopStrings:
    """Holds text back while a stop string may be beginning at its end."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """(text that can be shown, whether a stop string came right after it)."""
        self._held += text
        if not self._stops:
            return self.flush(), False
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            shown, self._held = self._held[: min(found)], ""
            return shown, True
        keep = max(self._overlap(stop) for stop in self._stops)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown, False

    def _overlap(self, stop: str) -> int:
        """How many characters at the end of the held text may be the beginning of `stop`."""
        longest = min(len(stop) - 1, len(self._held))
        return next((size for size in range(longest, 0, -1) if self._held.endswith(stop[:size])), 0)

    def flush(self) -> str:
        shown, self._held = self._held, ""
        return shown


@lru_cache(maxsize=64)
def _special_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    return frozenset(number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special)


class Decoding:
    """Tokens into text that stays as it is, whatever follows: what it gave is given once, and never taken back.

    A token's text depends on its neighbours (a leading space is dropped at the beginning; a run of byte tokens becomes characters
    only as a whole), so tokens are decoded behind those that were given last, whose own text is cut off again.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._given: list[int] = []  # the tokens given last, and their text by themselves
        self._given_text = ""
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """The text that is whole now."""
        if token in _special_tokens(self._tokenizer):
            return ""  # it has no text, and may stand between a character's bytes
        self._pending.append(token)
        text = self._behind_given(self._pending)
        if text.endswith(_BROKEN):
            text = self._up_to_whole_end()
        if text:
            self._given, self._given_text, self._pending = self._pending, self._decoded(self._pending), []
        return text

    def end(self) -> str:
        """What is left, but for bytes at its end that never became a character."""
        text, self._pending = self._behind_given(self._pending), []
        return text.rstrip(_BROKEN)

    def _up_to_whole_end(self) -> str:
        """Text that ends with whole characters behind bytes that can't be any: some decoders spoil the whole run of bytes then.
        UTF-8 shows where a character begins, so the last tokens by themselves are right. "" where the end isn't whole."""
        for size in range(1, min(_MAX_CHARACTER_BYTES, len(self._pending)) + 1):
            end = self._decoded(self._pending[-size:])
            if end and _BROKEN not in end:
                return self._behind_given(self._pending[:-size]) + end
        return ""

    def _behind_given(self, tokens: list[int]) -> str:
        text = self._decoded(self._given + tokens)
        if text.startswith(self._given_text):
            return text[len(self._given_text) :]
        return self._decoded(tokens)

    def _decoded(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)


class TextStream:
    """One answer's text, token by token. Special tokens have none."""

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...]) -> None:
        self._decoding = Decoding(tokenizer)
        self._stops = StopStrings(stops)
        self._decoded = 0  # characters that the decoder has given
        self._shown = 0  # characters that were shown
        self._waiting: list[tuple[int, TokenLogprob]] = []  # where each token's text begins, and its log probability

    def push(self, token: int, logprob: TokenLogprob | None = None) -> Shown:
        if logprob is not None:
            self._waiting.append((self._decoded, logprob))
        text = self._decoding.push(token)
        self._decoded += len(text)
        shown, stopped = self._stops.push(text)
        return self._release(shown, stopped)

    def end(self) -> Shown:
        """What was held back, when no more tokens come. Bytes that never became a character are dropped."""
        tail = self._decoding.end()
        self._decoded += len(tail)
        shown, stopped = self._stops.push(tail)
        return self._release(shown if stopped else shown + self._stops.flush(), stopped, last=not stopped)

    def _release(self, text: str, stopped: bool, last: bool = False) -> Shown:
        self._shown += len(text)
        ready = [logprob for begin, logprob in self._waiting if last or begin < self._shown]
        self._waiting = [] if last else [waiting for waiting in self._waiting if waiting[0] >= self._shown]
        return Shown(text, tuple(ready), stopped)


class TokenTexts:
    """What each token of a vocabulary says, as text and as bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._byte_level = _byte_level_alphabet() if "ByteLevel" in repr(tokenizer.decoder) else {}
        self._known = lru_cache(maxsize=_REMEMBERED)(lambda token: (self.text(token), self.data(token)))

    def logprob(self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        return TokenLogprob(token, *self._known(token), logprob, top)

    def text(self, token: int) -> str:
        return self._tokenizer.decode([token], skip_special_tokens=False)

    def data(self, token: int) -> bytes:
        """The token's own bytes, which need not be whole characters."""
        spelled = self._tokenizer.id_to_token(token) or ""
        if self._byte_level and all(character in self._byte_level for character in spelled):
            return bytes(self._byte_level[character] for character in spelled)
        if len(spelled) == 6 and spelled.startswith("<0x") and spelled.endswith(">"):
            return bytes([int(spelled[3:5], 16)])
        return spelled.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for every byte, reversed (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
