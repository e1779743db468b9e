"""A value in parts: all of it or nothing, and never a mixture of two."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cache.codec import CorruptValue, decode, encode
from cache.parts import Table, divided, table_of
from tests.cache.values import floats, same

VALUE: dict[str, NDArray[Any]] = {"x": floats(10_000), "y": np.arange(5)}
DATA = encode("key", VALUE, "seal")


def read(stored: bytes, key: str = "key", max_bytes: int = 1_000_000) -> Table:
    table = table_of(key, stored, max_bytes)
    assert table is not None
    return table


@given(st.integers(3, len(DATA)))
def test_parts_put_together_are_the_value(part_bytes: int) -> None:
    parts = divided("key", DATA, part_bytes)
    table, pieces = read(parts.head), dict(parts.pieces)
    assert table.keys == tuple(pieces)
    assert all(len(piece) <= part_bytes for piece in pieces.values())
    whole = table.joined([bytes(pieces[key]) for key in table.keys])
    assert same(decode("key", whole, "seal"), VALUE)


def test_keys_of_parts_are_nobody_elses() -> None:
    """Nor those of another value under the same key: two writers never mix theirs."""
    other = encode("key", {"x": floats(10_000, 2)}, "seal")
    keys = [divided(key, data, 3000).pieces for key, data in (("key", DATA), ("other", DATA), ("key", other))]
    names = [name for pieces in keys for name, _ in pieces]
    assert len(set(names)) == len(names)
    assert "key" not in names


def test_parts_of_another_length_are_corrupt() -> None:
    parts = divided("key", DATA, 3000)
    pieces = [bytes(piece) for _, piece in parts.pieces]
    table = read(parts.head)
    for wrong in (pieces[:-1], [*pieces, b""], [pieces[0][:-1], *pieces[1:]], [*pieces[:-1], pieces[-1] + b"x"]):
        with pytest.raises(CorruptValue):
            table.joined(wrong)


def test_parts_in_another_order_are_no_value() -> None:
    parts = divided("key", DATA, 3000)
    pieces = [bytes(piece) for _, piece in parts.pieces]
    pieces[0], pieces[1] = pieces[1], pieces[0]
    with pytest.raises(CorruptValue):
        decode("key", read(parts.head).joined(pieces), "seal")


def test_a_whole_value_is_no_head() -> None:
    assert table_of("key", DATA, 1_000_000) is None
    assert table_of("key", b"", 1_000_000) is None
    assert table_of("key", b"TPTP", 1_000_000) is None


@pytest.mark.parametrize(
    ("version", "part_bytes", "num_bytes"),
    [(2, 10, 100), (1, 0, 100), (1, 101, 100), (1, 10, 1_000_001), (1, 10, 2**63), (1, 1, 100_000)],
)
def test_a_head_that_lies_is_corrupt(version: int, part_bytes: int, num_bytes: int) -> None:
    with pytest.raises(CorruptValue):
        table_of("key", struct.pack("<4sHIQ16s", b"TPTP", version, part_bytes, num_bytes, bytes(16)), 1_000_000)


@given(st.binary(min_size=34, max_size=34))
def test_any_head_means_no_more_than_may_be(noise: bytes) -> None:
    try:
        table = table_of("key", b"TPTP" + noise[4:], 100_000)
    except CorruptValue:
        return
    assert table is not None
    assert len(table.keys) <= 4096
    assert (len(table.keys) - 1) * table.part_bytes < table.num_bytes <= 100_000
