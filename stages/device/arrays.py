"""Between a model's tensors and the arrays that results are made of, without changing a bit. Knows no model."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.codec import BFLOAT16


def as_array(tensor: Tensor) -> NDArray[Any]:
    """A copy on the host or the host's own memory, C-contiguous, in the tensor's dtype (bfloat16 is `BFLOAT16` of cache/codec.py)."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        bits: NDArray[Any] = tensor.view(torch.int16).numpy()
        return bits.view(BFLOAT16)
    return tensor.numpy()


def as_tensor(array: NDArray[Any], *, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """A copy, as arrays that came through the object store are read-only. Any dtype that `as_array` gives."""
    if array.dtype == BFLOAT16:
        return torch.tensor(array.view(np.int16)).view(torch.bfloat16).to(device, dtype)
    return torch.tensor(array).to(device, dtype)
