"""Memory that costs nothing until it is written."""

import psutil
import pytest
import torch

from stages.device.memory_on_demand import zeros

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5, 7), (0, 4), (2, 1000, 33)])
def test_it_is_zeros_as_torch_makes_them_and_can_be_written(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    made = zeros(shape, dtype, CPU)
    assert torch.equal(made, torch.zeros(shape, dtype=dtype))
    assert (made.dtype, made.is_contiguous(), made.data_ptr() % 64) == (dtype, True, 0)
    made.fill_(1)
    assert torch.equal(made, torch.ones(shape, dtype=dtype))


def test_what_is_not_written_takes_no_memory() -> None:
    process, large = psutil.Process(), 2**30
    before = process.memory_info().rss
    made = zeros((2, large // 2), torch.int8, CPU)
    made[1, :4096] = 1
    assert process.memory_info().rss - before < large // 16
    assert made[1, :8192].sum() == 4096
