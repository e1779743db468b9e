"""Runs the CLIP text encoder of Stable Diffusion 1.x and 2.x, as diffusers' `StableDiffusionPipeline.encode_prompt` does."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stages.diffusion.clip_text import ClipTokenizer
from stages.diffusion.family import TokenIds
from stages.stage import Arrays


class ClipPromptEncoder:
    """Result: {"embeds": [tokens, width]}, the last hidden state after its norm; float32, or float16 as the model."""

    def __init__(self, tokenizer: ClipTokenizer, encoder: Any) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._uses_mask = bool(getattr(encoder.config, "use_attention_mask", False))

    def tokenize(self, text: str) -> TokenIds:
        ids, mask = self._tokenizer.with_mask(text)
        return {"ids": ids, "mask": mask}

    def encode(self, batch: Sequence[TokenIds]) -> Sequence[Arrays]:
        ids = stacked(batch, "ids", self._encoder.device)
        mask = stacked(batch, "mask", self._encoder.device) if self._uses_mask else None
        embeds = to_host(self._encoder(ids, attention_mask=mask)[0])
        return [{"embeds": row} for row in embeds]


def stacked(batch: Sequence[TokenIds], name: str, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.stack([item[name] for item in batch])).to(device)


def to_host(embeds: torch.Tensor) -> NDArray[Any]:
    """In a dtype that numpy has: bfloat16 becomes float32, float16 stays."""
    wide = embeds.float() if embeds.dtype is torch.bfloat16 else embeds
    array: NDArray[Any] = wide.cpu().numpy()
    return array
