"""Keys and values as whole numbers of eight bits, with a scale for every head and token.

Decides the rounding, and so how far what is read back may be off: half a scale. Knows no slots and no pages.
"""

import torch
from torch import Tensor

LARGEST = 127


def packed(states: Tensor) -> tuple[Tensor, Tensor]:
    """[heads, tokens, dim] -> the same in int8, and scales [heads, tokens] in float32."""
    states = states.float()
    scales = states.abs().amax(-1).div_(LARGEST).clamp_min_(torch.finfo(torch.float32).tiny)
    return (states / scales[..., None]).round_().to(torch.int8), scales


def unpacked(numbers: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """[..., heads, tokens, dim] from int8 and [..., heads, tokens]."""
    return (numbers * scales[..., None]).to(dtype)
