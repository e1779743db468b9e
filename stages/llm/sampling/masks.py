"""Tokens that may not come next are made impossible. Knows masks, not why.

What a mask leaves out gets -inf added, so that what is no number stays none: a row whose model broke must not seem sound.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding

from stages.device.uploads import uploaded
from stages.llm.structure.vocabulary import Mask


def apply_masks(logits: Tensor, masks: Sequence[tuple[int, Mask]]) -> None:
    """Changes `logits` [rows, tokens] (float32) in place, by (row, its mask) each. Nothing is read back."""
    if not masks:
        return
    added = _added([mask for _, mask in masks], logits)
    if len(masks) == len(logits):
        logits += added
    else:
        logits.index_add_(0, uploaded(torch.tensor([row for row, _ in masks]), logits.device), added)


def with_masks(logits: Tensor, masks: Sequence[tuple[int, Mask]]) -> Tensor:
    """The same as a tensor of its own, in one pass where all rows have masks."""
    if len(masks) == len(logits):
        return logits + _added([mask for _, mask in masks], logits)
    masked = logits.clone(memory_format=torch.contiguous_format)
    apply_masks(masked, masks)
    return masked


def _added(masks: Sequence[Mask], logits: Tensor) -> Tensor:
    """[masks, tokens], where the logits are."""
    together = np.stack(masks).view(np.uint8)
    if logits.device.type == "cpu":  # numpy takes half of torch's time
        added = torch.from_numpy(np.take(_table(), together, axis=0, mode="clip"))
    else:
        added = embedding(uploaded(torch.from_numpy(together), logits.device).int(), _table_on(logits.device))
    return added.flatten(1)[:, : logits.shape[-1]]


@lru_cache(maxsize=1)
def _table() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """[256, 8]: what is added to the logits of the eight tokens whose bits a byte holds."""
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    return np.where(bits == 1, 0.0, -np.inf).astype(np.float32)


@lru_cache(maxsize=8)
def _table_on(device: torch.device) -> Tensor:
    return torch.from_numpy(_table()).to(device)
