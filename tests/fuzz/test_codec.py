"""Whatever a store hands back under a key is that key's value or corrupt, and reading it takes no more than its own bytes."""

import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from cache.codec import BFLOAT16, FORMAT_VERSION, MAX_INDEX_BYTES, CorruptValue, decode, encode
from tests.fuzz.effort import effort
from tests.fuzz.mutations import altered, mutated

KEY = "key"
PAYLOAD = bytes(range(256))
VALUES: list[dict[str, Any]] = [
    {"features": np.arange(12, dtype=np.float32).reshape(3, 4), "count": np.array(7)},
    {"latents": np.ones((1, 4, 2, 2), np.float16), "empty": np.empty((0, 3), np.complex64), "flags": np.array([True, False])},
    {"bits": np.zeros((2, 3), np.uint16).view(BFLOAT16)},
]
INDEXES: list[Any] = [
    ["a_kind", [["x", "<f4", [2, 3]], ["y", "|b1", []]]],
    ["", [["x", "bfloat16", [4]], ["", ">c16", [0, 7]]]],
]
DTYPES = st.text(alphabet="<>|=?biufcOSUVMm0123456789,()[]: T{}", max_size=12)


def signed(index: bytes, key: bytes = KEY.encode(), payload: bytes = PAYLOAD) -> bytes:
    """Well-formed as far as the checksum goes: what whoever may write to the store could put there."""
    head = struct.pack("<4sHHHI", b"TPTC", FORMAT_VERSION, 0, len(key), len(index))
    return head + xxhash.xxh3_128_digest(head + key + index + payload) + key + index + payload


def read(data: bytes, seal: str = "") -> dict[str, Any] | None:
    """None: corrupt."""
    tracemalloc.start()
    try:
        return decode(KEY, data, seal)
    except CorruptValue:
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < len(data) + 2_000_000  # an index has 64 KiB at most, of which Python makes many times as much


@effort(300)
@given(mutated([encode(KEY, value) for value in VALUES], [b"TPTC"]))
def test_changed_bytes_are_the_value_or_corrupt(data: bytes) -> None:
    found = read(data)
    assert found is None or data in [encode(KEY, value) for value in VALUES]


@effort(300)
@given(mutated([encode(KEY, value, seal) for value in VALUES for seal in ("", "theirs", "ours")], [b"TPTC"]))
def test_changed_bytes_and_others_bytes_are_not_believed_under_a_seal(data: bytes) -> None:
    found = read(data, "ours")
    assert found is None or data in [encode(KEY, value, "ours") for value in VALUES]


@effort(500)
@given(altered(INDEXES, st.integers(-2, 1 << 70) | DTYPES | st.none() | st.floats()))
def test_a_changed_index_with_a_sound_checksum_describes_arrays_within_the_bytes_or_is_corrupt(index: Any) -> None:
    data = signed(json.dumps(index).encode())
    for array in (read(data) or {}).values():
        assert array.nbytes <= len(data)
        assert not array.flags.writeable
        assert array.dtype.kind in "biufc" or array.dtype == BFLOAT16


@effort(500)
@given(DTYPES)
@example("(1 2)f4,i4")  # numpy evaluates what stands in the brackets, and raises what Python's parser raises
@example("01i4,i4")
def test_no_name_of_a_dtype_does_more_than_name_one(name: str) -> None:
    read(signed(json.dumps(["", [["x", name, [1]]]]).encode()))


@pytest.mark.parametrize("piece", [b"[],", b"{},", b'["x","<f4",[0]],', b"1.5,", b'"",'])
def test_the_largest_index_takes_no_more_either(piece: bytes) -> None:
    index = b'["",[' + piece * ((MAX_INDEX_BYTES - 7) // len(piece))
    read(signed(index.removesuffix(b",") + b"]]"))
    read(signed(b"[" * MAX_INDEX_BYTES))
    read(signed(b'["",[' + piece * MAX_INDEX_BYTES + b"[]]]"))  # too long to be looked at


@pytest.mark.parametrize("seal", ["", "ours"])
def test_reading_a_large_value_copies_nothing(seal: str) -> None:
    data = encode(KEY, {"x": np.zeros(2**22)}, seal)
    tracemalloc.start()
    try:
        assert decode(KEY, data, seal)["x"].nbytes == 2**25
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_what_is_signed_here_is_read_there() -> None:
    found = read(signed(json.dumps(["", [["x", "<f4", [2]]]]).encode(), payload=bytes(64 + 8)))
    assert found is not None
    assert found["x"].tolist() == pytest.approx([0, 0])
