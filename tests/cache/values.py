"""Values to store, and how to tell that two are the same to the bit."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from cache.codec import BFLOAT16, Arrays

DTYPES: list[Any] = [
    BFLOAT16,
    "?",
    "i1",
    "u1",
    "<i2",
    ">u2",
    "<i4",
    "u4",
    "<i8",
    "u8",
    "<f2",
    "<f4",
    ">f4",
    "<f8",
    "<c8",
    "<c16",
]

arrays: st.SearchStrategy[NDArray[Any]] = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
values: st.SearchStrategy[dict[str, NDArray[Any]]] = st.dictionaries(st.text(max_size=8), arrays, max_size=4)


def floats(num_bytes: int, fill: float = 1.0) -> NDArray[np.float32]:
    """A float32 array of so many bytes."""
    return np.full(num_bytes // 4, fill, np.float32)


def same(left: Arrays, right: Arrays) -> bool:
    """Same names, dtypes, shapes and bits (NaN equals itself, 0.0 differs from -0.0)."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )
