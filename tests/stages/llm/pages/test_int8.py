"""What eight bits keep of keys and values."""

import pytest
import torch

from stages.llm.pages.int8 import KEYS, VALUES, Shared, packed, unpacked


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shared", [KEYS, VALUES])
def test_what_is_read_back_is_off_by_half_a_scale_at_most(dtype: torch.dtype, shared: Shared) -> None:
    states = (
        torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.01, 1, 50])[:, None, None]
    ).to(dtype)
    numbers, scales = packed(states, shared)
    assert (numbers.dtype, scales.dtype, scales.shape) == (torch.int8, torch.float32, (3, 16) if shared is KEYS else (3, 5))
    off = (unpacked(numbers, scales, shared, torch.float32) - states.float()).abs()
    assert (off <= scales.unsqueeze(shared) * 0.501).all()
    assert unpacked(numbers, scales, shared, dtype).dtype is dtype


def test_nothing_but_zeros_stays_zero() -> None:
    numbers, scales = packed(torch.zeros(1, 2, 4), KEYS)
    assert scales.isfinite().all()
    assert not unpacked(numbers, scales, KEYS, torch.float32).any()
