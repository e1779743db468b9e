"""How each family's text encoders are given a prompt: which tokenizers read it, and how many positions it will take.

One class for each way; which family has which is the family's decision. What CLIP reads is read in chunks (`ChunkTokenizer`), as
many of one tokenizer as of the other. Knows no encoder and no torch: a process that runs no model can count positions.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.diffusion.text.prompt_tokenizer import ChunkTokenizer, PromptTokenizer, TokenIds

IDS, IDS_2, IDS_3, MASK = "ids", "ids_2", "ids_3", "mask"


class ClipTokens:
    """One CLIP. Tokens: ids and mask, [chunks, tokens]."""

    def __init__(self, tokenizer: ChunkTokenizer) -> None:
        self._tokenizer = tokenizer

    def tokenize(self, text: str, min_positions: int = 0) -> TokenIds:
        ((ids, mask),) = _chunked(text, (self._tokenizer,), min_positions)
        return {IDS: ids, MASK: mask}

    def positions(self, text: str) -> int:
        return _chunk_positions(text, (self._tokenizer,))


class ClipPairTokens:
    """Two CLIPs side by side. Tokens: ids of each, [chunks, tokens]; mask [] int64, 0 where the result is to be all zeros.
    `empty_is_zeros`: it is for the empty text, which is what the model was trained with for no prompt."""

    def __init__(self, tokenizers: tuple[ChunkTokenizer, ChunkTokenizer], *, empty_is_zeros: bool) -> None:
        self._tokenizers = tokenizers
        self._empty_is_zeros = empty_is_zeros

    def tokenize(self, text: str, min_positions: int = 0) -> TokenIds:
        (first, _), (second, _) = _chunked(text, self._tokenizers, min_positions)
        present = not (self._empty_is_zeros and not text)
        return {IDS: first, IDS_2: second, MASK: np.asarray(present, np.int64)}

    def positions(self, text: str) -> int:
        return _chunk_positions(text, self._tokenizers)


class TripletTokens:
    """Two CLIPs, and a T5's `t5_positions` after them (no tokenizer: those positions are empty). Tokens: ids of each."""

    def __init__(self, clip: tuple[ChunkTokenizer, ChunkTokenizer], t5: PromptTokenizer | None, t5_positions: int) -> None:
        self._clip, self._t5, self._t5_positions = clip, t5, t5_positions

    def tokenize(self, text: str, min_positions: int = 0) -> TokenIds:
        (first, _), (second, _) = _chunked(text, self._clip, min_positions - self._t5_positions)
        ids = {IDS: first, IDS_2: second}
        return ids if self._t5 is None else ids | {IDS_3: self._t5(text)}

    def positions(self, text: str) -> int:
        if self._t5 is not None:
            self._t5.check(text)
        return _chunk_positions(text, self._clip) + self._t5_positions


class PooledAndT5Tokens:
    """A T5, and a CLIP whose pooled result alone is wanted. Tokens: CLIP's ids and T5's."""

    def __init__(self, clip: PromptTokenizer, t5: PromptTokenizer) -> None:
        self._clip, self._t5 = clip, t5

    def tokenize(self, text: str, min_positions: int = 0) -> TokenIds:
        return {IDS: self._clip(text), IDS_2: self._t5(text)}

    def positions(self, text: str) -> int:
        self._t5.check(text)
        return self._t5.num_tokens


def _chunked(
    text: str, tokenizers: Sequence[ChunkTokenizer], min_positions: int
) -> Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Each tokenizer's chunks (ids, mask), as many of one as of the other, and enough for `min_positions`."""
    pieces = [tokenizer.split(text) for tokenizer in tokenizers]
    num_chunks = max(*map(len, pieces), -(-min_positions // tokenizers[0].chunk_tokens))
    return [tokenizer.chunks(one, num_chunks) for tokenizer, one in zip(tokenizers, pieces, strict=True)]


def _chunk_positions(text: str, tokenizers: Sequence[ChunkTokenizer]) -> int:
    return max(len(tokenizer.split(text)) for tokenizer in tokenizers) * tokenizers[0].chunk_tokens
