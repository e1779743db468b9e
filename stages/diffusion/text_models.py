"""Runs text encoders as the library's pipelines do: which of their layers is wanted, and how the results are put together.

One class for each way; which family has which is the family's decision.
"""

from collections.abc import Sequence

import numpy as np
import torch

from stages.arrays import as_array
from stages.diffusion.components import Loaded
from stages.diffusion.family import TokenIds
from stages.diffusion.prompt_tokenizer import PromptTokenizer
from stages.stage import Arrays

IDS, IDS_2, IDS_3, MASK = "ids", "ids_2", "ids_3", "mask"


class ClipPrompts:
    """Stable Diffusion 1.x and 2.x. Result: {"embeds": [tokens, width]}, the last hidden state after its norm; here and
    below in the model's dtype."""

    def __init__(self, tokenizer: PromptTokenizer, encoder: Loaded) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._uses_mask = bool(getattr(encoder.config, "use_attention_mask", False))

    def tokenize(self, text: str) -> TokenIds:
        ids, mask = self._tokenizer.with_mask(text)
        return {IDS: ids, MASK: mask}

    def encode(self, batch: Sequence[TokenIds]) -> Sequence[Arrays]:
        mask = _stacked(batch, MASK, self._encoder) if self._uses_mask else None
        return _results(embeds=self._encoder.call(_stacked(batch, IDS, self._encoder), attention_mask=mask)[0])


class ClipPairPrompts:
    """Stable Diffusion XL. Result: {"embeds": [tokens, both widths], "pooled": [second's width]}.
    `empty_is_zeros`: the empty text is all zeros, which is what the model was trained with for no prompt."""

    def __init__(
        self, tokenizers: tuple[PromptTokenizer, PromptTokenizer], encoders: tuple[Loaded, Loaded], *, empty_is_zeros: bool
    ) -> None:
        self._tokenizers = tokenizers
        self._encoders = encoders
        self._empty_is_zeros = empty_is_zeros

    def tokenize(self, text: str) -> TokenIds:
        first, second = self._tokenizers
        present = not (self._empty_is_zeros and not text)
        return {IDS: first(text), IDS_2: second(text), MASK: np.asarray(present, np.int64)}

    def encode(self, batch: Sequence[TokenIds]) -> Sequence[Arrays]:
        embeds, pooled = clip_pair(batch, self._encoders)
        present = _stacked(batch, MASK, self._encoders[1]).bool()
        embeds = torch.where(present[:, None, None], embeds, 0)
        return _results(embeds=embeds, pooled=torch.where(present[:, None], pooled[1], 0))


class TripletPrompts:
    """Stable Diffusion 3: two CLIP encoders, and a T5 (None: zeros in its place). Result: {"embeds": [CLIP + T5 tokens,
    T5's width], "pooled": [both CLIP widths]}."""

    def __init__(
        self,
        tokenizers: tuple[PromptTokenizer, PromptTokenizer, PromptTokenizer | None],
        encoders: tuple[Loaded, Loaded, Loaded | None],
        t5_shape: tuple[int, int],
    ) -> None:
        self._tokenizers = tokenizers
        self._encoders = encoders
        self._t5_shape = t5_shape

    def tokenize(self, text: str) -> TokenIds:
        first, second, third = self._tokenizers
        clip = {IDS: first(text), IDS_2: second(text)}
        return clip if third is None else clip | {IDS_3: third(text)}

    def encode(self, batch: Sequence[TokenIds]) -> Sequence[Arrays]:
        first, second, third = self._encoders
        embeds, pooled = clip_pair(batch, (first, second))
        nothing = embeds.new_zeros(len(batch), *self._t5_shape)
        t5 = nothing if third is None else third.call(_stacked(batch, IDS_3, third))[0]
        padded = torch.nn.functional.pad(embeds, (0, t5.shape[-1] - embeds.shape[-1]))
        return _results(embeds=torch.cat([padded, t5], dim=-2), pooled=torch.cat(pooled, dim=-1))


class PooledAndT5Prompts:
    """Flux. Result: {"embeds": [T5 tokens, width], "pooled": [CLIP's width]}."""

    def __init__(self, clip: PromptTokenizer, t5: PromptTokenizer, clip_encoder: Loaded, t5_encoder: Loaded) -> None:
        self._clip, self._t5 = clip, t5
        self._clip_encoder, self._t5_encoder = clip_encoder, t5_encoder

    def tokenize(self, text: str) -> TokenIds:
        return {IDS: self._clip(text), IDS_2: self._t5(text)}

    def encode(self, batch: Sequence[TokenIds]) -> Sequence[Arrays]:
        pooled = self._clip_encoder.call(_stacked(batch, IDS, self._clip_encoder)).pooler_output
        return _results(embeds=self._t5_encoder.call(_stacked(batch, IDS_2, self._t5_encoder))[0], pooled=pooled)


def clip_pair(batch: Sequence[TokenIds], encoders: tuple[Loaded, Loaded]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The last hidden states but one, side by side ([rows, tokens, both widths]), and each encoder's first output."""
    outputs = [
        encoder.call(_stacked(batch, name, encoder), output_hidden_states=True)
        for name, encoder in zip((IDS, IDS_2), encoders, strict=True)
    ]
    embeds = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return embeds, [output[0] for output in outputs]


def _stacked(batch: Sequence[TokenIds], name: str, encoder: Loaded) -> torch.Tensor:
    return torch.from_numpy(np.stack([item[name] for item in batch])).to(encoder.device)


def _results(**stacked: torch.Tensor) -> Sequence[Arrays]:
    """One mapping a row, on the host."""
    arrays = {name: as_array(rows) for name, rows in stacked.items()}
    num_rows = len(next(iter(arrays.values())))
    return [{name: rows[index] for name, rows in arrays.items()} for index in range(num_rows)]
