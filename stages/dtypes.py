"""The number type that a part computes in where the configuration says "auto": the fastest one that its device computes well,
within what the checkpoint allows.

- The weights are of a half-precision type: that type, or float32. The other half type would round them once more.
- Anything else (float32, or quantized): whichever half type the device computes well, or float32.
- Never float16 for weights that are not float16 already: it overflows in models that were trained in bfloat16 or float32.

What a device computes well is asked of the library, and on a CPU also measured: a CPU may have instructions for a type and be slower
with it. Knows no model; reads the headers of safetensors files only.
"""

from __future__ import annotations

import json
import logging
import struct
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

AUTO = "auto"
DTYPES = ("float32", "bfloat16", "float16")
MUCH_FASTER = 0.8
"""A half type's share of float32's time, at most: below that a faster type isn't worth its rounding."""

_STORED = {"F32": "float32", "F64": "float32", "BF16": "bfloat16", "F16": "float16"}
_HEADER_BYTES_AT_MOST = 100 * 2**20
log = logging.getLogger("triptych.stages")


def stored_dtype(files: Iterable[Path]) -> str | None:
    """The type that most of the weights in these safetensors files are stored in; None where there are none. Raises nothing: what
    can't be read here fails where it is loaded."""
    elements: Counter[str] = Counter()
    for path in files:
        for tensor in _header(path).values():
            if isinstance(tensor, dict) and tensor.get("dtype") in _STORED:
                size = 1
                for side in tensor["shape"]:
                    size *= side
                elements[_STORED[tensor["dtype"]]] += size
    return elements.most_common(1)[0][0] if elements else None


def _header(path: Path) -> dict[str, Any]:
    """Names, types and shapes of a safetensors file's tensors, from its beginning (its format: 8 bytes of length, then JSON)."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            return dict(json.loads(file.read(length))) if length <= _HEADER_BYTES_AT_MOST else {}
    except (OSError, ValueError, struct.error):
        return {}


def choose_dtype(device: str, stored: str | None, *, packed: bool) -> str:
    """ "float32", "bfloat16" or "float16". `stored`: the type of the weights (None: no type of their own). `packed`: the part runs
    through `stages.packed_linear` on a CPU."""
    halves = ("bfloat16",) if stored in (None, "float32") else (stored,)
    well = _computes_well_on_cpu if device == "cpu" else _computes_well_on_gpu
    return next((half for half in halves if half != "float32" and well(half, packed)), "float32")


def _computes_well_on_gpu(dtype: str, packed: bool) -> bool:
    import torch

    return dtype == "float16" or torch.cuda.is_bf16_supported(including_emulation=False)


@cache
def _computes_well_on_cpu(dtype: str, packed: bool) -> bool:
    import torch

    operator = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}[dtype]
    if not torch.backends.mkldnn.is_available() or not getattr(torch.ops.mkldnn, operator)():  # type: ignore[no-untyped-call]
        return False
    share = _packed_share(dtype) if packed else _plain_share(dtype)
    log.info("%s takes %.2f of float32's time on this CPU (%s layers)", dtype, share, "packed" if packed else "plain")
    return share <= MUCH_FASTER


def _packed_share(dtype: str) -> float:
    """Of packed layers as a decoding step has them: few rows, weights larger than the nearer caches."""
    import torch

    from stages.packed_linear import PackedLinear, time_share

    if dtype != "bfloat16":
        return float("inf")  # only bfloat16 is packed
    linear, states = torch.nn.Linear(1024, 2048, bias=False), torch.randn(16, 1024)
    half, plain = PackedLinear(linear.to(torch.bfloat16)), torch.nn.Linear(1024, 2048, bias=False)
    return time_share(lambda: half(states.bfloat16()), lambda: plain(states))


def _plain_share(dtype: str) -> float:
    """Of torch's own layers as encoders and denoisers have them: a product of many rows, and a convolution."""
    import torch

    from stages.packed_linear import time_share

    half = getattr(torch, dtype)
    linear, conv = torch.nn.Linear(512, 1024), torch.nn.Conv2d(64, 64, 3, padding=1)
    states, picture = torch.randn(256, 512), torch.randn(2, 64, 32, 32)
    linear_half = torch.nn.Linear(512, 1024, dtype=half)
    conv_half = torch.nn.Conv2d(64, 64, 3, padding=1, dtype=half)
    states_half, picture_half = states.to(half), picture.to(half)
    return time_share(lambda: (linear_half(states_half), conv_half(picture_half)), lambda: (linear(states), conv(picture)))
