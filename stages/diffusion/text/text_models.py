"""Runs text encoders as the library's pipelines do: which of their layers is wanted, and how the results are put together.

One class for each way; which family has which is the family's decision. Each reads what the class of `prompt_tokens.py` that goes
with it gives. What CLIP reads in chunks is encoded chunk by chunk, and the results stand one after another.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stages.device.arrays import as_array
from stages.diffusion.checkpoint.components import Loaded
from stages.diffusion.messages import PromptEmbedding
from stages.diffusion.text.prompt_tokenizer import TokenIds
from stages.diffusion.text.prompt_tokens import IDS, IDS_2, IDS_3, MASK


class ClipPrompts:
    """Stable Diffusion 1.x and 2.x; of `ClipTokens`. `embeds`: [tokens, width], the last hidden state after its norm, chunk after
    chunk; no `pooled`."""

    def __init__(self, encoder: Loaded) -> None:
        self._encoder = encoder
        self._uses_mask = bool(getattr(encoder.config, "use_attention_mask", False))

    def encode(self, batch: Sequence[TokenIds]) -> Sequence[PromptEmbedding]:
        mask = _joined(batch, MASK, self._encoder) if self._uses_mask else None
        embeds = self._encoder.call(_joined(batch, IDS, self._encoder), attention_mask=mask)[0]
        return [PromptEmbedding(rows) for rows in _one_after_another(batch, embeds)]


class ClipPairPrompts:
    """Stable Diffusion XL; of `ClipPairTokens`. `embeds`: [tokens, both widths], chunk after chunk; `pooled`: [second's width], the
    first chunk's."""

    def __init__(self, encoders: tuple[Loaded, Loaded]) -> None:
        self._encoders = encoders

    def encode(self, batch: Sequence[TokenIds]) -> Sequence[PromptEmbedding]:
        embeds, pooled = clip_pair(batch, self._encoders)
        found = zip(batch, _one_after_another(batch, embeds), _of_first_chunks(batch, pooled[1]), strict=True)
        return [
            PromptEmbedding(rows, one) if item[MASK] else PromptEmbedding(np.zeros_like(rows), np.zeros_like(one))
            for item, rows, one in found
        ]


class TripletPrompts:
    """Stable Diffusion 3: two CLIP encoders, and a T5 (None: zeros in its place); of `TripletTokens`. `embeds`: [CLIP + T5 tokens,
    T5's width], CLIP's chunk after chunk; `pooled`: [both CLIP widths], the first chunk's."""

    def __init__(self, encoders: tuple[Loaded, Loaded, Loaded | None], t5_shape: tuple[int, int]) -> None:
        self._encoders = encoders
        self._t5_shape = t5_shape

    def encode(self, batch: Sequence[TokenIds]) -> Sequence[PromptEmbedding]:
        first, second, third = self._encoders
        embeds, pooled = clip_pair(batch, (first, second))
        nothing = embeds.new_zeros(len(batch), *self._t5_shape)
        t5 = as_array(nothing if third is None else third.call(_stacked(batch, IDS_3, third))[0])
        padded = torch.nn.functional.pad(embeds, (0, t5.shape[-1] - embeds.shape[-1]))
        clip = zip(_one_after_another(batch, padded), _of_first_chunks(batch, torch.cat(pooled, dim=-1)), strict=True)
        return [PromptEmbedding(np.concatenate([rows, t5[at]]), one) for at, (rows, one) in enumerate(clip)]


class PooledAndT5Prompts:
    """Flux; of `PooledAndT5Tokens`. `embeds`: [T5 tokens, width]; `pooled`: [CLIP's width]."""

    def __init__(self, clip_encoder: Loaded, t5_encoder: Loaded) -> None:
        self._clip_encoder, self._t5_encoder = clip_encoder, t5_encoder

    def encode(self, batch: Sequence[TokenIds]) -> Sequence[PromptEmbedding]:
        pooled = as_array(self._clip_encoder.call(_stacked(batch, IDS, self._clip_encoder)).pooler_output)
        embeds = as_array(self._t5_encoder.call(_stacked(batch, IDS_2, self._t5_encoder))[0])
        return [PromptEmbedding(rows, one) for rows, one in zip(embeds, pooled, strict=True)]


def clip_pair(batch: Sequence[TokenIds], encoders: tuple[Loaded, Loaded]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The last hidden states but one, side by side ([chunks, tokens, both widths]), and each encoder's first output."""
    outputs = [
        encoder.call(_joined(batch, name, encoder), output_hidden_states=True)
        for name, encoder in zip((IDS, IDS_2), encoders, strict=True)
    ]
    embeds = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return embeds, [output[0] for output in outputs]


def _stacked(batch: Sequence[TokenIds], name: str, encoder: Loaded) -> torch.Tensor:
    return torch.from_numpy(np.stack([item[name] for item in batch])).to(encoder.device)


def _joined(batch: Sequence[TokenIds], name: str, encoder: Loaded) -> torch.Tensor:
    """[chunks of all prompts, tokens]"""
    return torch.from_numpy(np.concatenate([item[name] for item in batch])).to(encoder.device)


def _one_after_another(batch: Sequence[TokenIds], chunks: torch.Tensor) -> Sequence[NDArray[Any]]:
    """From [chunks of all prompts, tokens, width] to [tokens, width] of each prompt."""
    return [rows.reshape(-1, rows.shape[-1]) for rows in np.split(as_array(chunks), _ends(batch))]


def _of_first_chunks(batch: Sequence[TokenIds], pooled: torch.Tensor) -> Sequence[NDArray[Any]]:
    """From [chunks of all prompts, width] to [width] of each prompt."""
    return [rows[0] for rows in np.split(as_array(pooled), _ends(batch))]


def _ends(batch: Sequence[TokenIds]) -> list[int]:
    """Where one prompt's chunks end and the next one's begin."""
    return list(accumulate(len(item[IDS]) for item in batch))[:-1]
