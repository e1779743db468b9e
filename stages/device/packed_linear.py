"""Linear layers for a CPU, their weights laid out once as oneDNN multiplies them.

torch's own bfloat16 `Linear` has the weight laid out anew at every call, which at a few rows costs about as much as the product;
in float32 it leaves the product to another library, which some CPUs run slower than oneDNN (`python -m benchmarks.decode_step`).
Decides where a laid-out weight is used: in bfloat16 wherever oneDNN multiplies that, in float32 where it was measured to pay.
Other dtypes and devices are left as they are. Knows no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

EXPECTED_ROWS = 16
"""A hint for the layout; any number works."""

_PAYS = 0.95
_MEASURED_ROWS = (1, 4, EXPECTED_ROWS)
_TURNS = 7


class PackedLinear(nn.Module):
    """A `Linear` for inference. Its weight is opaque: it can't be saved or trained."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._bias = None if linear.bias is None else linear.bias.detach()
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), EXPECTED_ROWS)

    def forward(self, states: Tensor) -> Tensor:
        """[..., in] -> [..., out], in the weight's dtype."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(states, self._weight, self._bias, "none", [], "")
        return product


def pack_linears(model: nn.Module) -> None:
    """Replaces every `Linear` on a CPU whose dtype gains by it. A weight that is shared with an embedding stays there too."""
    for name, child in list(model.named_children()):
        if type(child) is nn.Linear and child.weight.device.type == "cpu" and gains(child.weight.dtype):
            setattr(model, name, PackedLinear(child))
        else:
            pack_linears(child)


def is_packed(model: nn.Module) -> bool:
    """Whether any of its layers is."""
    return any(isinstance(layer, PackedLinear) for layer in model.modules())


def gains(dtype: torch.dtype) -> bool:
    """Whether layers of this dtype are better packed on this CPU."""
    if dtype == torch.bfloat16:
        return can_pack(dtype)
    return dtype == torch.float32 and can_pack(dtype) and _pays_in_float32()


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch has oneDNN and its operators, and oneDNN multiplies this dtype on this CPU (bfloat16 wants AVX-512)."""
    if dtype not in (torch.bfloat16, torch.float32) or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    operators = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not all(hasattr(torch.ops.mkldnn, operator) for operator in operators):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def _pays_in_float32() -> bool:
    linear = nn.Linear(1024, 2048, bias=False)
    packed = PackedLinear(linear)
    inputs = [torch.randn(rows, 1024) for rows in _MEASURED_ROWS]
    return time_share(lambda: [packed(states) for states in inputs], lambda: [linear(states) for states in inputs]) <= _PAYS


def time_share(compute: Callable[[], object], plain: Callable[[], object]) -> float:
    """The time of one over that of the other: the shortest of several turns each, taken alternately, so that what else the machine
    does meets both."""
    shortest = [float("inf"), float("inf")]
    with torch.inference_mode():
        for turn in range(1 + _TURNS):
            for side, run in enumerate((compute, plain)):
                began = time.perf_counter()
                run()
                if turn:  # the first warms up
                    shortest[side] = min(shortest[side], time.perf_counter() - began)
    return shortest[0] / shortest[1]
