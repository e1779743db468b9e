"""Telling numbers from what is none."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from cache.codec import BFLOAT16
from cache.finite import is_finite
from tests.cache.values import values


@settings(max_examples=300, deadline=None)
@given(value=values)
def test_it_is_what_numpy_says_of_every_dtype(value: dict[str, NDArray[Any]]) -> None:
    assert is_finite(value) == all(np.isfinite(widened(array)).all() for array in value.values())


def widened(array: NDArray[Any]) -> NDArray[Any]:
    """bfloat16 as float32, which numpy knows."""
    if array.dtype != BFLOAT16:
        return array
    return (np.ascontiguousarray(array).view("<u2").astype("<u4") << 16).view("<f4")


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", "<c8", "<c16", "g"])
@pytest.mark.parametrize("where", [0, 262_143, 262_144, 299_999])
def test_one_of_many_is_found_wherever_it_is(bad: float, dtype: str, where: int) -> None:
    array = np.ones(300_000, dtype)
    assert is_finite({"ones": np.ones(3), "x": array})
    array[where] = bad
    assert not is_finite({"ones": np.ones(3), "x": array})


def test_what_is_large_or_tiny_is_a_number() -> None:
    for dtype in ("<f2", "<f4", "<f8"):
        info = np.finfo(dtype)
        assert is_finite({"x": np.array([info.max, info.min, info.tiny, info.smallest_subnormal, 0.0, -0.0], dtype)})


def test_an_array_with_gaps_is_looked_at_where_it_has_numbers() -> None:
    array = np.zeros((4, 4), np.complex64)
    array[:, 1] = np.nan
    assert is_finite({"x": array[:, ::2]})
    assert not is_finite({"x": array[:, 1::2]})


def test_nothing_is_finite() -> None:
    assert is_finite({})
    assert is_finite({"x": np.zeros((0, 4), np.float32)})
