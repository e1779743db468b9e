"""Packed layers give what torch's own give."""

import pytest
import torch
from torch import nn

from stages.packed_linear import PackedLinear, can_pack, pack_linears

pytestmark = pytest.mark.skipif(not can_pack(), reason="this torch has no oneDNN")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 16, 200])
def test_the_product_is_torchs_own(rows: int, bias: bool) -> None:
    torch.manual_seed(rows)
    linear = nn.Linear(96, 160, bias=bias).bfloat16()
    states = torch.randn(2, rows, 96).bfloat16()
    with torch.inference_mode():
        found, expected = PackedLinear(linear)(states), linear(states)
    assert found.shape == expected.shape
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_every_bfloat16_layer_is_packed_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(8, 8).bfloat16(), nn.Sequential(nn.Linear(8, 8).bfloat16(), nn.ReLU()), nn.Linear(8, 8))
    pack_linears(model)
    assert [type(layer).__name__ for layer in model.modules() if isinstance(layer, (PackedLinear, nn.Linear))] == [
        *["PackedLinear"] * 2,
        "Linear",
    ]
