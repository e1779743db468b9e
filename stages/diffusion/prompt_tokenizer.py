"""Tokenizers as diffusers checkpoints carry them: fixed length, thread-safe, and no prompt is cut silently.

Decides how many tokens a prompt may have. Knows no encoder: the ids it gives are read by the family's text encoders.
"""

from dataclasses import dataclass
from threading import Lock
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stages.diffusion.checkpoint_parts import DiffusersFolder
from stages.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class PromptLength:
    """`tokens`: what the encoder reads, marks (begin, end) included. `marks`: how many of them the tokenizer adds."""

    tokens: int
    marks: int

    @property
    def text_tokens(self) -> int:
        return self.tokens - self.marks


def clip_length(folder: DiffusersFolder, tokenizer: str = "tokenizer", encoder: str = "text_encoder") -> PromptLength:
    """What a CLIP tokenizer's and encoder's settings allow."""
    positions = folder.settings(encoder).integer("max_position_embeddings", 77)
    limit = folder.settings(tokenizer, "tokenizer_config.json").values.get("model_max_length")
    return PromptLength(min(limit, positions) if isinstance(limit, int) else positions, marks=2)


class PromptTokenizer:
    """One tokenizer. The library's object keeps padding state, so only one thread may use it at a time."""

    def __init__(self, tokenizer: Any, length: PromptLength, *, may_cut: bool = False) -> None:
        self._tokenizer = tokenizer
        self._length = length
        self._may_cut = may_cut
        self._lock = Lock()

    @classmethod
    def load(cls, folder: DiffusersFolder, tokenizer: str, length: PromptLength, *, may_cut: bool = False) -> Self:
        """`may_cut`: a longer prompt is cut, because another encoder reads it whole; otherwise it is refused."""
        from stages.diffusion.components import load_tokenizer

        return cls(load_tokenizer(folder, tokenizer), length, may_cut=may_cut)

    def __call__(self, text: str) -> NDArray[np.int64]:
        """[tokens] ids, padded. Raises `InvalidRequest` for a prompt that is too long."""
        return self.with_mask(text)[0]

    def with_mask(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(ids, 1 where they are not padding)."""
        length = self._length
        with self._lock:
            num_tokens = len(self._tokenizer(text).input_ids)
            if num_tokens > length.tokens and not self._may_cut:
                raise InvalidRequest(
                    f"the prompt has {num_tokens - length.marks} tokens; this model reads at most {length.text_tokens}",
                    param="prompt",
                )
            padded = self._tokenizer(text, padding="max_length", max_length=length.tokens, truncation=True)
        return np.asarray(padded.input_ids, np.int64), np.asarray(padded.attention_mask, np.int64)
