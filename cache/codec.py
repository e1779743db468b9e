"""How a value (named numpy arrays) becomes bytes, and how bytes are checked before they become a value again.

Decides the byte format; knows no tier and no meaning of keys. Never pickle: a stored value is data, whoever wrote it.

    magic "TPTC" | format version | sealed | length of key | length of index | check | key | index | arrays

The index is JSON, `[kind, [[name, dtype, shape], ...]]`, with numpy's own name of a dtype, or "bfloat16"; every array is raw C-ordered
bytes, begun at a multiple of 64. The check covers all bytes but itself. Under a seal it is a MAC (HMAC-SHA256, its key derived from
the seal, cut to 128 bits; a third of the time that BLAKE2b takes where a CPU has instructions for SHA): whoever may write to the store,
but has no seal, writes nothing that is believed under one. Without a seal it is a checksum (xxh3_128), which finds accidents, not
forgers. The reader says which it expects; what the bytes say of it is only told.
"""

import hashlib
import hmac
import json
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
"""A value. Any numeric or bool dtype and `BFLOAT16`, any shape (0-d and empty included), either byte order."""

BFLOAT16: np.dtype[Any] = np.dtype([("bfloat16", "<u2")])
"""bfloat16, which numpy doesn't have: its bits, under its name. Travels, is pickled and shared like any other dtype; for numbers,
hand it to torch (`stages/device/arrays.py`)."""

FORMAT_VERSION = 2
"""In the stored keys too: to be raised where the heads of parts change (`cache/parts.py`), as well."""

MAX_INDEX_BYTES = 2**16
"""Parsed JSON takes many times its length."""

MAX_KEY_BYTES = 2**16 - 1
CHECK_BYTES = 16
OVERHEAD_BYTES = 2**19
"""At most, of what is encoded beside the arrays' own bytes."""

_MAGIC = b"TPTC"
_HEAD = struct.Struct("<4sHHHI")
_ALIGNMENT = 64
_PURPOSE = b"triptych stored value"
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


def encode(key: str, value: Arrays, seal: str = "", kind: str = "") -> bytes:
    """`seal`: a secret, of whoever the value is for ("": of nobody). Raises `ValueError` for a value that is not storable. The bytes share
    no memory with the arrays."""
    if not is_storable(value):
        dtypes = {name: str(getattr(array, "dtype", type(array).__name__)) for name, array in value.items()}
        raise ValueError(f"only numeric and bool arrays can be stored, not {dtypes}")
    arrays = {name: np.asarray(array, order="C") for name, array in value.items()}
    listed = [[name, _written(array.dtype), list(array.shape)] for name, array in arrays.items()]
    index, key_bytes = json.dumps([kind, listed]).encode(), key.encode()
    if len(index) > MAX_INDEX_BYTES or len(key_bytes) > MAX_KEY_BYTES:
        raise ValueError(f"an index of {len(index)} bytes, or a key of {len(key_bytes)}, is too long")
    head = _HEAD.pack(_MAGIC, FORMAT_VERSION, bool(seal), len(key_bytes), len(index))
    position = len(head) + CHECK_BYTES + len(key_bytes) + len(index)
    body: list[bytes | memoryview] = [key_bytes, index]
    for array in arrays.values():
        padding = -position % _ALIGNMENT
        body += [bytes(padding), _raw(array)]
        position += padding + array.nbytes
    return b"".join([head, _check(seal, head, *body), *body])


def decode(key: str, data: bytes, seal: str = "") -> dict[str, NDArray[Any]]:
    """The value stored under `key` and `seal`: read-only arrays that view `data` without copying. Raises `CorruptValue`."""
    with _as_corrupt():
        head = _head(data)
        view = memoryview(data)
        if not hmac.compare_digest(_check(seal, view[: _HEAD.size], view[head.body_at :]), check_of(data)):
            raise CorruptValue(f"{_told(head, seal)} does not match over {len(data)} bytes")
        written = data[head.body_at : head.index_at]
        if written != key.encode():
            raise CorruptValue(f"value of another key: {written[:64]!r}")
        _, slots = _index(data, head)
        return {
            slot.name: np.frombuffer(data, slot.dtype, count=prod(slot.shape), offset=slot.offset).reshape(slot.shape)
            if prod(slot.shape)
            else _empty(slot)
            for slot in slots
        }


@dataclass(frozen=True, slots=True)
class Description:
    """What bytes say of themselves. `arrays`: name, dtype, shape."""

    key: str
    kind: str
    is_sealed: bool
    arrays: tuple[tuple[str, str, tuple[int, ...]], ...]


def describe(data: bytes) -> Description:
    """Unchecked: whoever wrote them may have written anything. Raises `CorruptValue`."""
    with _as_corrupt():
        head = _head(data)
        kind, slots = _index(data, head)
        key = data[head.body_at : head.index_at].decode()
        return Description(key, kind, head.is_sealed, tuple((slot.name, _written(slot.dtype), slot.shape) for slot in slots))


def check_of(data: bytes) -> bytes:
    """The check in encoded bytes: as good as a name of them all."""
    return data[_HEAD.size : _HEAD.size + CHECK_BYTES]


@dataclass(frozen=True, slots=True)
class _Head:
    is_sealed: bool
    body_at: int
    index_at: int
    arrays_at: int


@dataclass(frozen=True, slots=True)
class _Slot:
    """One array's place in the bytes."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


@contextmanager
def _as_corrupt() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, struct.error) as error:
        raise CorruptValue(f"unreadable value: {error}") from error


def _head(data: bytes) -> _Head:
    magic, version, is_sealed, key_length, index_length = _HEAD.unpack_from(data)
    if magic != _MAGIC or version != FORMAT_VERSION:
        raise CorruptValue(f"magic {magic!r} and format {version} are not {_MAGIC!r} and {FORMAT_VERSION}")
    if index_length > MAX_INDEX_BYTES:
        raise CorruptValue(f"an index of {index_length} bytes is over {MAX_INDEX_BYTES}")
    body_at = _HEAD.size + CHECK_BYTES
    return _Head(bool(is_sealed), body_at, body_at + key_length, body_at + key_length + index_length)


def _told(head: _Head, seal: str) -> str:
    if bool(seal) != head.is_sealed:
        return "what is sealed, read without a seal," if head.is_sealed else "what is not sealed, read under a seal,"
    return "the seal" if seal else "the checksum"


def _index(data: bytes, head: _Head) -> tuple[str, list[_Slot]]:
    kind, listed = json.loads(data[head.index_at : head.arrays_at])
    if not isinstance(kind, str) or not isinstance(listed, list):
        raise CorruptValue("the index is none")
    return kind, list(_slots(listed, head.arrays_at, len(data)))


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


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


def _check(seal: str, *parts: bytes | memoryview) -> bytes:
    whole: _Hash = hmac.new(_derived(seal), digestmod="sha256") if seal else xxhash.xxh3_128()
    for part in parts:
        whole.update(part)
    return whole.digest()[:CHECK_BYTES]


def _derived(seal: str) -> bytes:
    """The key for this purpose alone: a seal is also part of names."""
    return hmac.digest(seal.encode(), _PURPOSE, hashlib.sha256)
