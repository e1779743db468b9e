"""From tokens to text that can be shown: never half a character, never a stop string.

Decides when text is ready and where it ends. Knows no model and no sampling.
"""

import codecs
import re
from collections import deque
from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple

from tokenizers import Tokenizer

from stages.llm.messages import TokenLogprob

_MAX_PENDING = 24
"""Tokens without a text that are remembered, since they may change the next one's."""

_ONE_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
_REMEMBERED = 16_384
"""Tokens whose text is remembered: twenty likely ones are told a step and row."""


class Shown(NamedTuple):
    """Text (and its tokens' log probabilities) that can be shown now; `stopped`: a stop string follows, and nothing else."""

    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    stopped: bool = False


class StopStrings:
    """Holds text back while a stop string may be beginning at its end. A character costs the same, however much is held. `shows`: the
    stop string itself is shown."""

    def __init__(self, stops: tuple[str, ...], *, shows: bool = False) -> None:
        self._stops = [_StopString(stop) for stop in stops if stop]
        self._shows = shows
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """(text that can be shown, whether a stop string came right after it)."""
        if not self._stops:
            return text, False
        searched = len(self._held)
        self._held += text
        found = [(at, len(stop)) for stop in self._stops if (at := stop.found(self._held, searched)) >= 0]
        if found:
            at, length = min(found)
            shown, self._held = self._held[: at + (length if self._shows else 0)], ""
            return shown, True
        cut = len(self._held) - max(stop.read(text) for stop in self._stops)
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown, False

    def flush(self) -> str:
        shown, self._held = self._held, ""
        return shown


class _StopString:
    """How much of it stands at the end of what was read (Knuth, Morris and Pratt 1977, "Fast pattern matching in strings")."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._num_read = 0  # characters of it that stand at the end
        self._shorter = [0]  # for as many of it as 1, 2, ...: the next smaller beginning of it that stands at their end
        at = 0
        for character in text[1:]:
            at = self._longer(at, character)
            self._shorter.append(at)

    def __len__(self) -> int:
        return len(self._text)

    def found(self, held: str, searched: int) -> int:
        """Where it stands in `held`, of which `searched` characters are known not to hold it; -1 nowhere."""
        return held.find(self._text, max(0, searched - len(self._text) + 1))

    def read(self, text: str) -> int:
        """How much of it stands at the end of all text so far, which doesn't hold it."""
        for character in text:
            self._num_read = self._longer(self._num_read, character)
        return self._num_read

    def _longer(self, num_read: int, character: str) -> int:
        while num_read and self._text[num_read] != character:
            num_read = self._shorter[num_read - 1]
        return num_read + (self._text[num_read] == character)


@lru_cache(maxsize=64)
def special_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    return frozenset(number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special)


class Decoding:
    """Tokens into text that stays as it is, whatever follows: what it gave is given once, and never taken back.

    Tokens that stand for bytes are read as UTF-8: held back is only what may yet become a character, at most three bytes, and what is
    none becomes U+FFFD. A word's text depends on its neighbours (a leading space is dropped at the beginning), so it is decoded
    behind the token that was given last, whose own text is cut off again. `shown`: the special tokens that have a text.
    """

    def __init__(self, tokenizer: Tokenizer, shown: Collection[int] = ()) -> None:
        self._tokenizer, self._shown = tokenizer, shown
        self._bytes, self._special = _token_bytes(tokenizer), special_tokens(tokenizer)
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._given: list[int] = []  # the tokens given last, and their text by themselves
        self._given_text = ""
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """The text that is certain now."""
        if token in self._special:
            if token not in self._shown:
                return ""  # it has no text, and may stand between a character's bytes
            return self._characters.decode(b"", final=True) + (self._tokenizer.id_to_token(token) or "")
        if self._bytes.is_of_bytes(token):
            self._give([] if self._bytes.is_byte_level else [token])
            return self._characters.decode(self._bytes.of(token))
        return self._characters.decode(b"", final=True) + self._word(token)

    def _word(self, token: int) -> str:
        self._pending = [*self._pending[-_MAX_PENDING:], token]
        text = self._behind_given(self._pending)
        if text:
            self._give(self._pending)
        return text

    def _give(self, tokens: list[int]) -> None:
        self._given, self._given_text, self._pending = tokens, self._decoded(tokens), []

    def _behind_given(self, tokens: list[int]) -> str:
        text = self._decoded(self._given + tokens)
        if text.startswith(self._given_text):
            return text[len(self._given_text) :]
        return self._decoded(tokens)

    def _decoded(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True) if tokens else ""


class TextStream:
    """One answer's text, token by token. Special tokens have none, but for `shown`. `stops` count from the token `min_tokens` on;
    `shows_stop`: the one that ends the answer is shown."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: tuple[str, ...],
        *,
        shown: Collection[int] = (),
        min_tokens: int = 0,
        shows_stop: bool = False,
    ) -> None:
        self._decoding = Decoding(tokenizer, shown)
        self._stops = StopStrings(stops, shows=shows_stop)
        self._unstopped = max(0, min_tokens - 1)  # tokens that may still hold a stop string
        self._decoded = 0  # characters that the decoder has given
        self._shown = 0  # characters that were shown
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()  # where each token's text begins, and its log probability

    def push(self, token: int, logprob: TokenLogprob | None = None) -> Shown:
        if logprob is not None:
            self._waiting.append((self._decoded, logprob))
        text = self._decoding.push(token)
        self._decoded += len(text)
        if self._unstopped:
            self._unstopped -= 1
            return self._release(text, stopped=False)
        shown, stopped = self._stops.push(text)
        return self._release(shown, stopped)

    def end(self) -> Shown:
        """What was held back, when no more tokens come. Bytes that never became a character are dropped."""
        ready = tuple(logprob for _, logprob in self._waiting)
        self._waiting.clear()
        return Shown(self._stops.flush(), ready)

    def _release(self, text: str, stopped: bool) -> Shown:
        self._shown += len(text)
        if not self._waiting:
            return Shown(text, (), stopped)
        ready: list[TokenLogprob] = []
        while self._waiting and self._waiting[0][0] < self._shown:
            ready.append(self._waiting.popleft()[1])
        return Shown(text, tuple(ready), stopped)


class TokenTexts:
    """What each token of a vocabulary says, as text and as bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known = lru_cache(maxsize=_REMEMBERED)(lambda token: (self.text(token), self.data(token)))

    def logprob(self, token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        return TokenLogprob(token, *self._known(token), logprob, top)

    def text(self, token: int) -> str:
        return self._tokenizer.decode([token], skip_special_tokens=False)

    def data(self, token: int) -> bytes:
        """The token's own bytes, which need not be whole characters."""
        return _token_bytes(self._tokenizer).of(token)


class TokenBytes:
    """What each token of a vocabulary says, as bytes. In a byte-level vocabulary every token is a string of bytes; in others there
    are words, and often a token for every byte, for what no word has."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        decoder = repr(tokenizer.decoder)
        self.is_byte_level = decoder.startswith("ByteLevel(")
        self._alphabet = _byte_level_alphabet() if "ByteLevel" in decoder else {}
        self._has_bytes = "ByteFallback" in decoder
        self._known: dict[int, bytes] = {}

    def of(self, token: int) -> bytes:
        known = self._known.get(token)
        if known is None:
            known = self._read(token)
            if len(self._known) < _REMEMBERED:
                self._known[token] = known
        return known

    def _read(self, token: int) -> bytes:
        spelled = self._tokenizer.id_to_token(token) or ""
        if self._alphabet and all(character in self._alphabet for character in spelled):
            return bytes(self._alphabet[character] for character in spelled)
        if _ONE_BYTE.fullmatch(spelled) and not self.is_byte_level:
            return bytes([int(spelled[3:5], 16)])
        return (spelled if self.is_byte_level else spelled.replace("\N{LOWER ONE EIGHTH BLOCK}", " ")).encode()

    def is_of_bytes(self, token: int) -> bool:
        """Whether its bytes are to be read with its neighbours'."""
        return self.is_byte_level or (
            self._has_bytes and _ONE_BYTE.fullmatch(self._tokenizer.id_to_token(token) or "") is not None
        )


@lru_cache(maxsize=64)
def _token_bytes(tokenizer: Tokenizer) -> TokenBytes:
    return TokenBytes(tokenizer)


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for every byte, reversed (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
