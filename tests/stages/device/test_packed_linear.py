"""Packed layers give what torch's own give."""

import pytest
import torch
from torch import nn

from stages.device.packed_linear import PackedLinear, can_pack, gains, pack_linears

pytestmark = pytest.mark.cpu
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.02}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 3, 16, 200])
def test_the_product_is_torchs_own(rows: int, bias: bool, dtype: torch.dtype) -> None:
    if not can_pack(dtype):
        pytest.skip(f"oneDNN multiplies no {dtype} here")
    torch.manual_seed(rows)
    linear = nn.Linear(96, 160, bias=bias).to(dtype)
    states = torch.randn(2, rows, 96).to(dtype)
    with torch.inference_mode():
        found, expected = PackedLinear(linear)(states), linear(states)
    assert found.shape == expected.shape
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_bfloat16_is_packed_only_where_this_cpu_can_multiply_it() -> None:
    model = nn.Sequential(nn.Linear(8, 8).bfloat16())
    pack_linears(model)
    assert isinstance(model[0], PackedLinear) == can_pack(torch.bfloat16)
    with torch.inference_mode():
        assert model(torch.ones(1, 8).bfloat16()).shape == (1, 8)


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="oneDNN multiplies no bfloat16 here")
def test_every_bfloat16_layer_is_packed_and_nothing_else() -> None:
    model = nn.Sequential(
        nn.Linear(8, 8).bfloat16(), nn.Sequential(nn.Linear(8, 8).bfloat16(), nn.ReLU()), nn.Linear(8, 8).half()
    )
    pack_linears(model)
    assert [type(layer).__name__ for layer in model.modules() if isinstance(layer, (PackedLinear, nn.Linear))] == [
        *["PackedLinear"] * 2,
        "Linear",
    ]


def test_no_other_dtype_is_packed() -> None:
    assert not gains(torch.float16)
    assert not gains(torch.float64)
