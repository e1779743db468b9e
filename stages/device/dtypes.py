"""The number type that a part computes in where the configuration says "auto": the fastest one that its device computes well,
within what the checkpoint allows.

- The weights are of a half-precision type: that type, or float32. The other half type would round them once more.
- Anything else (float32, or quantized): whichever half type the device computes well, or float32.
- Never float16 for weights that are not float16 already: it overflows in models that were trained in bfloat16 or float32.

What a device computes well is asked of the library, and on a CPU also measured: a CPU may have instructions for a type and be slower
with it. Knows no model and no files.
"""

from __future__ import annotations

import logging
from functools import cache

AUTO = "auto"
DTYPES = ("float32", "bfloat16", "float16")
MUCH_FASTER = 0.8
"""A half type's share of float32's time, at most: below that a faster type isn't worth its rounding."""

log = logging.getLogger("triptych.stages")


def choose_dtype(device: str, stored: str | None, *, packed: bool) -> str:
    """ "float32", "bfloat16" or "float16". `stored`: the type of the weights (None: no type of their own). `packed`: the part runs
    through `stages.device.packed_linear` on a CPU."""
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

    from stages.device.packed_linear import PackedLinear, time_share

    if dtype != "bfloat16":
        return float("inf")  # only bfloat16 is packed
    linear, states = torch.nn.Linear(1024, 2048, bias=False), torch.randn(16, 1024)
    half, plain = PackedLinear(linear.to(torch.bfloat16)), torch.nn.Linear(1024, 2048, bias=False)
    return time_share(lambda: half(states.bfloat16()), lambda: plain(states))


def _plain_share(dtype: str) -> float:
    """Of torch's own layers as encoders and denoisers have them: a product of many rows, and a convolution."""
    import torch

    from stages.device.packed_linear import time_share

    half = getattr(torch, dtype)
    linear, conv = torch.nn.Linear(512, 1024), torch.nn.Conv2d(64, 64, 3, padding=1)
    states, image = torch.randn(256, 512), torch.randn(2, 64, 32, 32)
    linear_half = torch.nn.Linear(512, 1024, dtype=half)
    conv_half = torch.nn.Conv2d(64, 64, 3, padding=1, dtype=half)
    states_half, image_half = states.to(half), image.to(half)
    return time_share(lambda: (linear_half(states_half), conv_half(image_half)), lambda: (linear(states), conv(image)))
