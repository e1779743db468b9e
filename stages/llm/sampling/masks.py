"""Tokens that may not come next are made impossible. Knows masks, not why."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding

from stages.device.uploads import uploaded
from stages.llm.structure.vocabulary import Mask


def apply_masks(logits: Tensor, masks: Sequence[tuple[int, Mask]]) -> None:
    """Changes `logits` [rows, tokens] (float32) in place: of each (row, its mask), what the mask leaves out becomes -inf; what is no number
    stays none. Nothing is read back."""
    if not masks:
        return
    together = uploaded(torch.from_numpy(np.stack([mask for _, mask in masks]).view(np.uint8)), logits.device)
    added = embedding(together.int(), _of_bytes(logits.device)).flatten(1)[:, : logits.shape[-1]]
    if len(masks) == len(logits):
        logits += added
    else:
        logits.index_add_(0, uploaded(torch.tensor([row for row, _ in masks]), logits.device), added)


@lru_cache(maxsize=8)
def _of_bytes(device: torch.device) -> Tensor:
    """[256, 8]: what is added to the logits of the eight tokens whose bits a byte holds."""
    bits = torch.arange(256)[:, None] >> torch.arange(8) & 1
    return torch.where(bits == 1, 0.0, -torch.inf).to(device)
