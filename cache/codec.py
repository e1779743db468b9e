"""How a value (named numpy arrays) becomes bytes, and how bytes are checked before they become a value again.

Decides the byte format; knows no tier and no meaning of keys. Never pickle: a stored value is data, whoever wrote it.

    magic "TPTC" | format version | length of key | length of index | checksum | key | index | arrays

The index is JSON, `[[name, dtype, shape], ...]`, with numpy's own name of a dtype, or "bfloat16"; every array is raw C-ordered
bytes, begun at a multiple of 64. The checksum (xxh3_128) covers all bytes but itself. It finds accidents, not forgers: who may
write to the store is the store's business.
"""

import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
"""A value. Any numeric or bool dtype and `BFLOAT16`, any shape (0-d and empty included), either byte order."""

BFLOAT16: np.dtype[Any] = np.dtype([("bfloat16", "<u2")])
"""bfloat16, which numpy doesn't have: its bits, under its name. Travels, is pickled and shared like any other dtype; for numbers,
hand it to torch (`stages/device/arrays.py`)."""

FORMAT_VERSION = 1

_MAGIC = b"TPTC"
_HEAD = struct.Struct("<4sHHI")
_CHECKSUM_BYTES = 16
_ALIGNMENT = 64
_KINDS = "biufc"
_WRITTEN = re.compile(rf"[<>|][{_KINDS}]\d{{1,2}}", re.ASCII)  # numpy would evaluate what else a name may hold


class CorruptValue(Exception):
    """Bytes that are no value, another format's value, or another key's value."""


def size_of(value: Arrays) -> int:
    """Bytes of the arrays alone."""
    return sum(array.nbytes for array in value.values())


def is_storable(value: Arrays) -> bool:
    """Whether every array has a numeric or bool dtype or `BFLOAT16` (no objects, strings, dates or other records)."""
    return all(isinstance(array, np.ndarray) and _is_numeric(array.dtype) for array in value.values())


def encode(key: str, value: Arrays) -> bytes:
    """Raises `ValueError` for a value that is not storable. The bytes share no memory with the arrays."""
    if not is_storable(value):
        dtypes = {name: str(getattr(array, "dtype", type(array).__name__)) for name, array in value.items()}
        raise ValueError(f"only numeric and bool arrays can be stored, not {dtypes}")
    arrays = {name: np.asarray(array, order="C") for name, array in value.items()}
    index = json.dumps([[name, _written(array.dtype), list(array.shape)] for name, array in arrays.items()]).encode()
    key_bytes = key.encode()
    head = _HEAD.pack(_MAGIC, FORMAT_VERSION, len(key_bytes), len(index))
    position = len(head) + _CHECKSUM_BYTES + len(key_bytes) + len(index)
    body: list[bytes | memoryview] = [key_bytes, index]
    for array in arrays.values():
        padding = -position % _ALIGNMENT
        body += [bytes(padding), _raw(array)]
        position += padding + array.nbytes
    return b"".join([head, _checksum(head, *body), *body])


def decode(key: str, data: bytes) -> dict[str, NDArray[Any]]:
    """The value stored under `key`: read-only arrays that view `data` without copying. Raises `CorruptValue`."""
    try:
        return _decode(key, data)
    except CorruptValue:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, struct.error) as error:
        raise CorruptValue(f"unreadable value: {error}") from error


@dataclass(frozen=True, slots=True)
class _Slot:
    """One array's place in the bytes."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


def _decode(key: str, data: bytes) -> dict[str, NDArray[Any]]:
    magic, version, key_length, index_length = _HEAD.unpack_from(data)
    if magic != _MAGIC or version != FORMAT_VERSION:
        raise CorruptValue(f"magic {magic!r} and format {version} are not {_MAGIC!r} and {FORMAT_VERSION}")
    body_at = _HEAD.size + _CHECKSUM_BYTES
    view = memoryview(data)
    if _checksum(view[: _HEAD.size], view[body_at:]) != data[_HEAD.size : body_at]:
        raise CorruptValue(f"checksum does not match over {len(data)} bytes")
    index_at = body_at + key_length
    if data[body_at:index_at] != key.encode():
        raise CorruptValue(f"value of another key: {data[body_at:index_at][:64]!r}")
    index = json.loads(data[index_at : index_at + index_length])
    slots = list(_slots(index, index_at + index_length, len(data)))
    return {
        slot.name: np.frombuffer(data, slot.dtype, count=prod(slot.shape), offset=slot.offset).reshape(slot.shape)
        if prod(slot.shape)
        else _empty(slot)
        for slot in slots
    }


def _slots(index: list[tuple[str, str, list[int]]], position: int, end: int) -> Iterator[_Slot]:
    for name, dtype_name, shape in index:
        dtype = _dtype(dtype_name)
        if dtype is None or not isinstance(name, str) or not all(type(size) is int and size >= 0 for size in shape):
            raise CorruptValue(f"index entry {name!r}, {dtype_name!r}, {shape!r} describes no array")
        position += -position % _ALIGNMENT
        yield _Slot(name, dtype, tuple(shape), position)
        position += prod(shape) * dtype.itemsize
        if position > end:
            raise CorruptValue(f"array {name!r} reaches beyond the value's {end} bytes")


def _dtype(written: str) -> np.dtype[Any] | None:
    """None: the name of none that can be stored."""
    if written == _written(BFLOAT16):
        return BFLOAT16
    dtype = np.dtype(written) if _WRITTEN.fullmatch(written) else None
    return dtype if dtype is not None and dtype.str == written else None


def _is_numeric(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in _KINDS or dtype == BFLOAT16


def _written(dtype: np.dtype[Any]) -> str:
    return "bfloat16" if dtype == BFLOAT16 else dtype.str


def _empty(slot: _Slot) -> NDArray[Any]:
    array: NDArray[Any] = np.empty(slot.shape, slot.dtype)
    array.flags.writeable = False
    return array


def _raw(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


def _checksum(*parts: bytes | memoryview) -> bytes:
    whole = xxhash.xxh3_128()
    for part in parts:
        whole.update(part)
    return whole.digest()
