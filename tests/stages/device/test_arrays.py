"""Tensors as arrays and back, to the bit."""

import numpy as np
import pytest
import torch

from cache.codec import BFLOAT16
from stages.device.arrays import as_array, as_tensor

pytestmark = pytest.mark.models  # imports torch

NUMBERS = [0.0, -0.0, 1.0, -3.5, float("inf"), float("nan"), 1e-40]


def bits(tensor: torch.Tensor) -> list[int]:
    return [int(byte) for byte in tensor.flatten().view(torch.uint8)] if tensor.numel() else []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(), (0, 4), (7,), (7, 1)])
def test_a_tensor_comes_back_to_the_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    numbers = torch.tensor(NUMBERS if dtype.is_floating_point else range(7))[: int(np.prod(shape))]
    tensor = numbers.to(dtype).reshape(shape)
    array = as_array(tensor)
    array.flags.writeable = False
    back = as_tensor(array, dtype=dtype, device="cpu")
    assert array.shape == shape
    assert array.nbytes == tensor.nbytes
    assert bits(back) == bits(tensor)


def test_what_is_computed_in_bfloat16_is_called_that_and_widens_exactly() -> None:
    array = as_array(torch.tensor([[1.0, -2.5]]).bfloat16().T)
    assert array.dtype == BFLOAT16
    assert array.flags.c_contiguous
    assert as_tensor(array, dtype=torch.float32, device="cpu").tolist() == [[1.0], [-2.5]]
