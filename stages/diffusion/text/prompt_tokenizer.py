"""Tokenizers as diffusers checkpoints carry them: fixed length or chunks of it, thread-safe, and no prompt is cut silently.

Decides how many tokens a prompt may have. Knows no encoder: the ids it gives are read by the family's text encoders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stages.contract.errors import ConfigurationError, InvalidRequest
from stages.diffusion.checkpoint.checkpoint_parts import DiffusersFolder
from stages.text.text_tokenizer import Reading, TextTokenizer

TokenIds: TypeAlias = Mapping[str, NDArray[np.int64]]
"""A prompt's token ids under the name of what reads them, padded to that encoder's length; [chunks, tokens] where it reads a
prompt in chunks."""


def num_tokens(tokens: TokenIds) -> int:
    """That the encoders read, padding included."""
    return sum(ids.size for name, ids in tokens.items() if name.startswith("ids"))


MAX_CHUNKS = 8  # 600 tokens of CLIP's; a denoiser attends to every one of them at every step


@dataclass(frozen=True, slots=True)
class PromptLength:
    """`tokens`: what the encoder reads, marks (begin, end) included. `marks`: how many of them the tokenizer adds."""

    tokens: int
    marks: int

    @property
    def text_tokens(self) -> int:
        return self.tokens - self.marks

    @property
    def chunked_text_tokens(self) -> int:
        """Of a prompt that is read in chunks."""
        return self.text_tokens * MAX_CHUNKS


def clip_length(folder: DiffusersFolder, tokenizer: str = "tokenizer", encoder: str = "text_encoder") -> PromptLength:
    """What a CLIP tokenizer's and encoder's settings allow."""
    positions = folder.settings(encoder).integer("max_position_embeddings", 77)
    limit = folder.settings(tokenizer, "tokenizer_config.json").values.get("model_max_length")
    return PromptLength(min(limit, positions) if isinstance(limit, int) else positions, marks=2)


class PromptTokenizer:
    """One tokenizer, of an encoder that reads all of a prompt at once. Any thread."""

    def __init__(self, tokenizer: Any, length: PromptLength, *, may_cut: bool = False) -> None:
        self._texts = TextTokenizer.of(tokenizer, max_tokens=length.text_tokens, param="prompt")
        self._padding: int = tokenizer.pad_token_id
        self._length = length
        self._may_cut = may_cut

    @classmethod
    def load(cls, folder: DiffusersFolder, tokenizer: str, length: PromptLength, *, may_cut: bool = False) -> Self:
        """`may_cut`: a longer prompt is cut, because another encoder reads it whole; otherwise it is refused."""
        return cls(_load(folder, tokenizer), length, may_cut=may_cut)

    @property
    def num_tokens(self) -> int:
        """Of any text, padding included."""
        return self._length.tokens

    def __call__(self, text: str) -> NDArray[np.int64]:
        """[tokens] ids, padded. Raises `InvalidRequest` for a prompt that is too long."""
        kept = self._read(text).ids[: self._length.text_tokens]
        marked = [*self._texts.begin, *kept, *self._texts.end]
        ids = np.full(self._length.tokens, self._padding, np.int64)
        ids[: len(marked)] = marked
        return ids

    def check(self, text: str) -> None:
        """Raises `InvalidRequest` for a prompt that is too long."""
        self._read(text)

    def _read(self, text: str) -> Reading:
        reading = self._texts.read(text)
        if len(reading.ids) > self._length.text_tokens and not self._may_cut:
            raise _too_long(reading, self._length.text_tokens)
        return reading


class ChunkTokenizer:
    """One tokenizer whose encoder reads a long prompt in chunks: each as long as the encoder reads at once, with marks of its own,
    the last one padded as the library pads. A prompt that fits is one chunk, as the library's pipelines have it. Any thread."""

    def __init__(self, tokenizer: Any, length: PromptLength, *, may_cut: bool = False) -> None:
        self._texts = TextTokenizer.of(tokenizer, max_tokens=length.chunked_text_tokens, param="prompt")
        self._padding: int = tokenizer.pad_token_id
        self._length = length
        self._may_cut = may_cut

    @classmethod
    def load(cls, folder: DiffusersFolder, tokenizer: str, length: PromptLength, *, may_cut: bool = False) -> Self:
        """`may_cut`: a prompt of more chunks is cut, because another encoder reads it whole; otherwise it is refused."""
        return cls(_load(folder, tokenizer), length, may_cut=may_cut)

    @property
    def chunk_tokens(self) -> int:
        return self._length.tokens

    def split(self, text: str) -> Sequence[Sequence[int]]:
        """The text's ids, without marks, a list for each chunk; at least one. Raises `InvalidRequest` for a text of too many."""
        reading = self._texts.read(text)
        size, most = self._length.text_tokens, self._length.chunked_text_tokens
        if len(reading.ids) > most and not self._may_cut:
            raise _too_long(reading, most)
        ids = reading.ids
        return [ids[first : first + size] for first in range(0, min(max(len(ids), 1), most), size)]

    def chunks(self, pieces: Sequence[Sequence[int]], num_chunks: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """([chunks, tokens] ids with marks and padding, 1 where they are not padding); filled up with the empty text's chunk."""
        ids = np.full((num_chunks, self._length.tokens), self._padding, np.int64)
        mask = np.zeros_like(ids)
        for row in range(num_chunks):
            marked = [*self._texts.begin, *(pieces[row] if row < len(pieces) else ()), *self._texts.end]
            ids[row, : len(marked)], mask[row, : len(marked)] = marked, 1
        return ids, mask


def _load(folder: DiffusersFolder, component: str) -> Any:
    """One of the library's tokenizers; importing those takes no torch. Raises `ConfigurationError`."""
    import transformers

    library, class_name = folder.class_of(component)
    kind = getattr(transformers, class_name, None) if library == "transformers" else None
    if kind is None:
        raise ConfigurationError(f"{folder.index.path}: {library}.{class_name} is not a class of transformers")
    try:
        return kind.from_pretrained(folder.path, subfolder=component, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{folder.path / component}: cannot be loaded as {class_name}: {error}") from error


def _too_long(reading: Reading, most: int) -> InvalidRequest:
    return InvalidRequest(f"the prompt has {reading.told} tokens; this model reads at most {most}", param="prompt")
