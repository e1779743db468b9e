"""Memory that is read as zeros and costs nothing until it is written: of a CPU's, the kernel hands out each page at its first write.

Decides where that is so. Slots for long contexts are gigabytes, of which short texts touch little; to write zeros into all of them takes
seconds of every start on machines where fresh pages are slow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_ALIGNED_TO = 64  # as torch's own allocations are


def zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Of this shape; contiguous. On other devices than CPUs as torch makes them."""
    if device.type != "cpu":
        return torch.zeros(tuple(shape), dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    raw = np.zeros(num_bytes + _ALIGNED_TO, np.uint8)  # calloc's
    begin = -raw.ctypes.data % _ALIGNED_TO
    return torch.from_numpy(raw[begin : begin + num_bytes]).view(dtype).view(tuple(shape))
