"""Bytes that a payload carries, such as an encoded image. Decides how they travel: as one read-only array, which several items can
share on their way to another process (`stages/host/packed_item.py`), where plain bytes would be copied into each."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Blob:
    """Immutable. `bytes(blob)` copies them."""

    __slots__ = ("_array",)

    def __init__(self, data: "bytes | NDArray[np.uint8]") -> None:
        """`data`: [length] uint8, read-only, if it is an array."""
        self._array = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data

    def __bytes__(self) -> bytes:
        return self._array.tobytes()

    @property
    def view(self) -> memoryview:
        """Of the bytes, without a copy."""
        return self._array.data

    def __len__(self) -> int:
        return len(self._array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blob) and np.array_equal(self._array, other._array)

    def __hash__(self) -> int:
        return hash(self._array.tobytes())

    def __repr__(self) -> str:
        return f"Blob({len(self)} bytes)"

    def __reduce__(self) -> tuple[Any, ...]:
        return Blob, (self._array,)
