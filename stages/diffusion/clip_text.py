"""CLIP tokenizers as diffusers checkpoints carry them: fixed length, thread-safe, and no prompt is cut silently.

Knows no encoder: the ids it gives are read by the family's text encoder.
"""

from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.diffusion.checkpoint_parts import DiffusersFolder
from stages.errors import InvalidRequest

_NUM_MARKS = 2  # begin and end of text


def clip_length(folder: DiffusersFolder, tokenizer: str, encoder: str) -> int:
    """Tokens that the encoder reads, marks included."""
    positions = folder.settings(encoder).integer("max_position_embeddings", 77)
    limit = folder.settings(tokenizer, "tokenizer_config.json").values.get("model_max_length")
    return min(limit, positions) if isinstance(limit, int) else positions


def clip_prompt_tokens(folder: DiffusersFolder, tokenizer: str, encoder: str) -> int:
    """Tokens of text that fit between the marks."""
    return clip_length(folder, tokenizer, encoder) - _NUM_MARKS


class ClipTokenizer:
    """One tokenizer. The library's object keeps padding state, so only one thread may use it at a time."""

    def __init__(self, tokenizer: Any, length: int) -> None:
        self._tokenizer = tokenizer
        self._length = length
        self._lock = Lock()

    @classmethod
    def load(cls, folder: DiffusersFolder, tokenizer: str, encoder: str) -> "ClipTokenizer":
        from stages.diffusion.components import load_tokenizer

        return cls(load_tokenizer(folder, tokenizer), clip_length(folder, tokenizer, encoder))

    def __call__(self, text: str, *, may_cut: bool = False) -> NDArray[np.int64]:
        """[length] ids, padded. A prompt that is too long is cut where `may_cut` (another encoder reads the rest), or else
        raises `InvalidRequest`."""
        return self.with_mask(text, may_cut=may_cut)[0]

    def with_mask(self, text: str, *, may_cut: bool = False) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(ids, 1 where they are not padding)."""
        with self._lock:
            num_tokens = len(self._tokenizer(text).input_ids)
            if num_tokens > self._length and not may_cut:
                limit = self._length - _NUM_MARKS
                raise InvalidRequest(
                    f"the prompt has {num_tokens - _NUM_MARKS} tokens; this model reads at most {limit}; shorten it",
                    param="prompt",
                )
            padded = self._tokenizer(text, padding="max_length", max_length=self._length, truncation=True)
        return np.asarray(padded.input_ids, np.int64), np.asarray(padded.attention_mask, np.int64)
