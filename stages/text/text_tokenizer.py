"""One checkpoint's tokenizer, as whatever reads texts of strangers uses it: from texts to token ids, without marks.

Decides how much of a text is looked at: what is far too long already is not read to its end. Remembers no words, so that no text takes
memory for later ones. Knows no model and no template; how much may be read, and how more is refused, is its owner's.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from tokenizers import Tokenizer

from stages.contract.errors import ConfigurationError, InvalidRequest

BLOCK_CHARS = 16
"""For each token that may be read: a text with more characters is read in blocks of so many first."""
_BATCH_TEXTS, _BATCH_CHARS = 1024, 65_536


@dataclass(frozen=True, slots=True)
class Reading:
    """A text's token ids. `is_whole` False: it has more of them, and these, from its beginning, are too many already."""

    ids: Sequence[int]
    is_whole: bool = True

    @property
    def told(self) -> str:
        """How many tokens the text has, for messages."""
        return str(len(self.ids)) if self.is_whole else f"more than {len(self.ids)}"


class TextTokenizer:
    """Any thread, without a lock. Takes `backend` over: its truncation, padding and cache are set here, and by nobody else.

    `max_tokens`: of more than that, not all is read (see `Reading`); None: everything always is. `param`: the field that texts come
    from, for messages. `begin` and `end`: the marks that the tokenizer puts about a text. Raises `ConfigurationError` where it puts
    some elsewhere."""

    def __init__(self, backend: Tokenizer, *, param: str, max_tokens: int | None = None) -> None:
        self._backend, self._param, self._max_tokens = backend, param, max_tokens
        backend.no_padding()
        backend.no_truncation()
        self.begin, self.end = _marks(backend)
        if max_tokens is not None:
            backend.enable_truncation(_num_counted(max_tokens) + 1)  # what stands behind is split into words, but not encoded
        _remember_no_words(backend)

    @classmethod
    def of(cls, tokenizer: Any, *, param: str, max_tokens: int | None = None) -> Self:
        """Of a `transformers` tokenizer, which nobody else may call from now on. Raises `ConfigurationError` for one without a fast
        form: those written in Python take the square of a word's length."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ConfigurationError(f"{type(tokenizer).__name__} has no fast form, which reading texts of strangers needs")
        return cls(backend, param=param, max_tokens=max_tokens)

    @property
    def marks(self) -> int:
        """How many tokens are added to a text's own."""
        return len(self.begin) + len(self.end)

    def read(self, *texts: str) -> Reading:
        """The texts' ids, one's behind the other's. Raises `InvalidRequest` for what the tokenizer can't read."""
        ids: list[int] = []
        for batch in _batches(texts):
            found = self._encoded(batch) if len(batch) > 1 else read_in_bounds(batch[0], self._max_tokens, self._encoded_alone)
            ids += found.ids
            if not found.is_whole or self._is_counted(ids):
                return Reading(ids, is_whole=False)
        return Reading(ids)

    def _is_counted(self, ids: Sequence[int]) -> bool:
        return self._max_tokens is not None and len(ids) > _num_counted(self._max_tokens)

    def _encoded_alone(self, text: str) -> Reading:
        return self._encoded([text])

    def _encoded(self, texts: list[str]) -> Reading:
        """`encode_batch_fast` lets other threads have the interpreter, and computes no offsets."""
        try:
            found = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        except BaseException as error:
            if not _is_of_the_tokenizer(error):
                raise
            raise InvalidRequest(
                f"{self._param} holds text that the model's tokenizer cannot read", param=self._param
            ) from error
        ids = [token for one in found for token in one.ids]
        return Reading(ids, is_whole=not self._is_counted(ids))


def read_in_bounds(text: str, max_tokens: int | None, read: Callable[[str], Reading]) -> Reading:
    """What `read` makes of a text; of one with a block that alone has far too many tokens, of what ends with that block.

    An ordinary text that is too long shows it in its first block. What is before such a block, or shows it nowhere (it is mostly
    spaces), is read twice."""
    size = len(text) if max_tokens is None else BLOCK_CHARS * max_tokens
    if max_tokens is not None and len(text) > size:
        for first in range(0, len(text), size):
            block = read(text[first : first + size])
            if not block.is_whole or len(block.ids) > _far_too_many(max_tokens):
                beginning = block if not first else read(text[: first + size])
                return Reading(beginning.ids, is_whole=False)
    return read(text)


def _far_too_many(max_tokens: int) -> int:
    """More than a text that fits can have in a block, though the block's first and last word are cut in two: a long word may be one
    token, and its half a hundred."""
    return max(2 * max_tokens, max_tokens + 256)


def _num_counted(max_tokens: int) -> int:
    """As far as tokens are counted, so that a refusal tells how many there are."""
    return max(4 * max_tokens, max_tokens + 1024)


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    num_chars = 0
    for text in texts:
        if batch and (len(batch) == _BATCH_TEXTS or num_chars + len(text) > _BATCH_CHARS):
            yield batch
            batch, num_chars = [], 0
        batch.append(text)
        num_chars += len(text)
    if batch:
        yield batch


def _marks(backend: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    plain = backend.encode("a", add_special_tokens=False).ids
    marked = backend.encode("a", add_special_tokens=True).ids
    for at in range(len(marked) - len(plain) + 1):
        if marked[at : at + len(plain)] == plain:
            return tuple(marked[:at]), tuple(marked[at + len(plain) :])
    raise ConfigurationError("the tokenizer puts its marks inside a text, not about it")


def _remember_no_words(backend: Tokenizer) -> None:
    """By default 10,000 words of up to 255 bytes are remembered, for each thread and for good: 80 MB of what somebody made up. What
    is remembered saves an ordinary text a fifth of its time."""
    if hasattr(backend.model, "_resize_cache"):
        backend.model._clear_cache()
        backend.model._resize_cache(0)


def _is_of_the_tokenizer(error: BaseException) -> bool:
    """Rust's panics are no `Exception`, and would end a thread, or an event loop."""
    return isinstance(error, Exception) or type(error).__module__ == "pyo3_runtime"
