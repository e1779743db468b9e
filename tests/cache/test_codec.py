"""Bytes of a value: what comes out is what went in, or it doesn't come out."""

import pickle
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cache.codec import BFLOAT16, FORMAT_VERSION, CorruptValue, decode, describe, encode, is_storable, size_of
from tests.cache.values import DTYPES, same, values

VALUE = {"features": np.arange(12, dtype=np.float16).reshape(3, 4), "grid": np.array([1, 2, 3])}


SEALS = st.sampled_from(["", "a", "0123456789abcdef" * 4])


@given(st.text(), values, SEALS)
def test_a_value_comes_back_to_the_bit(key: str, value: dict[str, NDArray[Any]], seal: str) -> None:
    assert same(decode(key, encode(key, value, seal), seal), value)


@pytest.mark.parametrize(("written", "read"), [("ours", "theirs"), ("ours", ""), ("", "ours")])
def test_a_value_under_another_seal_is_not_believed(written: str, read: str) -> None:
    with pytest.raises(CorruptValue, match="seal"):
        decode("key", encode("key", VALUE, written), read)


def test_who_has_no_seal_cannot_forge_by_saying_that_there_is_one() -> None:
    """The head's own word for "sealed" is not what the reader goes by."""
    forgery = bytearray(encode("key", VALUE))
    forgery[6] = 1
    for seal in ("ours", ""):
        with pytest.raises(CorruptValue):
            decode("key", bytes(forgery), seal)


def test_bytes_say_what_they_are_to_whoever_asks() -> None:
    told = describe(encode("key", VALUE | {"bits": np.zeros(2, np.uint16).view(BFLOAT16)}, "ours", "vision_features"))
    assert (told.key, told.kind, told.is_sealed) == ("key", "vision_features", True)
    assert told.arrays == (("features", "<f2", (3, 4)), ("grid", "<i8", (3,)), ("bits", "bfloat16", (2,)))
    with pytest.raises(CorruptValue):
        describe(b"TPTC")


def test_a_value_of_endlessly_many_arrays_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        encode("key", {f"array {number}": np.zeros(1) for number in range(4000)})


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_numeric_dtype_travels(dtype: str) -> None:
    value = {"x": np.ones((2, 3), dtype)}
    assert same(decode("k", encode("k", value)), value)


def test_views_travel_as_what_they_show() -> None:
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    value = {"columns": whole[:, ::2], "backwards": whole[::-1], "transposed": whole.T}
    assert same(decode("k", encode("k", value)), {name: array.copy() for name, array in value.items()})


def test_decoded_arrays_are_read_only_and_aligned() -> None:
    decoded = decode("k", encode("k", VALUE | {"empty": np.zeros((0, 4))}))
    assert not any(array.flags.writeable for array in decoded.values())
    assert all(array.flags.aligned for array in decoded.values())


def test_decoding_copies_nothing() -> None:
    data = encode("k", {"x": np.zeros(100_000, np.float32)})
    assert np.shares_memory(decode("k", data)["x"], np.frombuffer(data, np.uint8))


def test_encoded_bytes_share_no_memory_with_the_arrays() -> None:
    array = np.zeros(4, np.float32)
    data = encode("k", {"x": array})
    array[:] = 9
    assert decode("k", data)["x"].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "array",
    [np.array([object()]), np.array(["a"]), np.array(["2020-01-01"], "M8[D]"), np.zeros(2, "i4,f4"), np.zeros(2, "V2")],
)
def test_only_numbers_can_be_stored(array: NDArray[Any]) -> None:
    assert not is_storable({"x": array})
    with pytest.raises(ValueError, match="numeric"):
        encode("k", {"x": array})


def test_bfloat16_travels_by_its_name() -> None:
    ones = np.full((2, 3), 0x3F80, np.uint16).view(BFLOAT16)
    data = encode("k", {"x": ones})
    assert b'"bfloat16"' in data
    assert decode("k", data)["x"].dtype == BFLOAT16
    assert size_of({"x": ones}) == 2 * 6


def test_bfloat16_is_pickled_without_a_copy() -> None:
    ones, buffers = np.full((2, 3), 0x3F80, np.uint16).view(BFLOAT16), list[pickle.PickleBuffer]()
    pickled = pickle.dumps(ones, protocol=5, buffer_callback=buffers.append)
    back = pickle.loads(pickled, buffers=buffers)  # noqa: S301
    assert same({"x": back}, {"x": ones})
    assert np.shares_memory(back, ones)


def test_size_counts_the_arrays() -> None:
    assert size_of(VALUE) == 24 + 24
    assert size_of({}) == 0


def test_a_value_of_another_key_is_corrupt() -> None:
    with pytest.raises(CorruptValue, match="another key"):
        decode("ours", encode("theirs", VALUE))


@given(st.data(), SEALS)
def test_one_flipped_bit_anywhere_is_noticed(data: st.DataObject, seal: str) -> None:
    encoded = bytearray(encode("key", VALUE, seal))
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptValue):
        decode("key", bytes(encoded), seal)


@given(st.data())
def test_a_truncated_value_is_corrupt(data: st.DataObject) -> None:
    encoded = encode("key", VALUE)
    with pytest.raises(CorruptValue):
        decode("key", encoded[: data.draw(st.integers(0, len(encoded) - 1))])


def test_bytes_after_the_end_are_corrupt() -> None:
    with pytest.raises(CorruptValue):
        decode("key", encode("key", VALUE) + b"\0")


@given(st.binary(max_size=200))
def test_any_bytes_are_either_a_value_or_corrupt(noise: bytes) -> None:
    with pytest.raises(CorruptValue):
        decode("key", noise)


def forged(index: bytes, payload: bytes = b"", version: int = FORMAT_VERSION) -> bytes:
    """Well-formed as far as the checksum goes: what a careless or malicious writer could store."""
    head = struct.pack("<4sHHHI", b"TPTC", version, 0, 3, len(index))
    return head + xxhash.xxh3_128_digest(head + b"key" + index + payload) + b"key" + index + payload


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"null",
        b"7",
        b'["", [[1]]]',
        b'["", {"a": 1}]',
        b'["", [["x", "<f4", [1000000]]]]',
        b'["", [["x", "<f4", [-4]]]]',
        b'["", [["x", "<f4", [-1, -1]]]]',
        b'["", [["x", "<f4", [1.5]]]]',
        b'["", [["x", "<f4", [true]]]]',
        b'["", [["x", "<f4", [99999999999999999999, 0]]]]',
        b'["", [["x", "|O", [1]]]]',
        b'["", [["x", "<U4", [1]]]]',
        b'["", [["x", "i4,f4", [1]]]]',
        b'["", [["x", "nonsense", [1]]]]',
        b'["", [["x", null, [1]]]]',
        b'["", [["x", {"names": ["a"], "formats": ["O"]}, [1]]]]',
        b'["", [[["x"], "<f4", [1]]]]',
        b"[" * 100_000,
        b"\xff\xfe",
        b"[]",
        b'[""]',
        b"[7, []]",
        b'["", null]',
        b'["", [], []]',
        b'["", [' + b'["x","<f4",[0]],' * 8000 + b'["x","<f4",[0]]]]',
    ],
)
def test_a_forged_index_is_corrupt_and_nothing_worse(index: bytes) -> None:
    with pytest.raises(CorruptValue):
        decode("key", forged(index, b"\0" * 64))


def test_another_format_version_is_corrupt() -> None:
    assert decode("key", forged(b'["", []]')) == {}
    for other in (FORMAT_VERSION - 1, FORMAT_VERSION + 1):
        with pytest.raises(CorruptValue, match=f"format {other}"):
            decode("key", forged(b'["", []]', version=other))


def test_a_pickle_is_never_opened() -> None:
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder) / "opened"

        class Bomb:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (mark,)

        with pytest.raises(CorruptValue):
            decode("key", pickle.dumps(Bomb()))
        assert not mark.exists()
