"""Linear layers for a CPU, their weights laid out once as oneDNN multiplies them.

torch's own bfloat16 `Linear` has the weight laid out anew at every call, which at a few rows costs about as much as the product
(`python -m benchmarks.decode_step`). Decides where that is done: bfloat16 on a CPU that torch has oneDNN for. Other dtypes and
devices are left as they are. Knows no model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EXPECTED_ROWS = 16
"""A hint for the layout; any number works."""


class PackedLinear(nn.Module):
    """A `Linear` for inference. Its weight is opaque: it can't be saved or trained."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._bias = None if linear.bias is None else linear.bias.detach()
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), EXPECTED_ROWS)

    def forward(self, states: Tensor) -> Tensor:
        """[..., in] bfloat16 -> [..., out]."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(states, self._weight, self._bias, "none", [], "")
        return product


def pack_linears(model: nn.Module) -> None:
    """Replaces every bfloat16 `Linear` on a CPU. A weight that is shared with an embedding stays there too."""
    if not can_pack():
        return
    for name, child in list(model.named_children()):
        if type(child) is nn.Linear and child.weight.dtype == torch.bfloat16 and child.weight.device.type == "cpu":
            setattr(model, name, PackedLinear(child))
        else:
            pack_linears(child)


def can_pack() -> bool:
    """Whether this torch has oneDNN and its operators, and oneDNN multiplies bfloat16 on this CPU (it wants AVX-512)."""
    operators = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return all(hasattr(torch.ops.mkldnn, operator) for operator in operators) and bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
