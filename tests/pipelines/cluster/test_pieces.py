"""Values that travel as bytes of a bounded size."""

import numpy as np
import pytest

from pipelines.cluster.pieces import MAX_BYTES, Joined, pieces


@pytest.mark.parametrize("num_bytes", [0, 10, MAX_BYTES - 100, MAX_BYTES, MAX_BYTES + 1, 3 * MAX_BYTES, 10 * MAX_BYTES + 7])
def test_what_is_told_in_pieces_arrives_whole(num_bytes: int) -> None:
    told = [("event", np.arange(num_bytes, dtype=np.uint8)), "end"]
    sent = list(pieces(told))
    assert all(len(piece) <= MAX_BYTES for piece in sent)
    joined = Joined()
    *before, (first, end) = [joined.add(piece) for piece in sent]
    assert before == [None] * (len(sent) - 1)
    assert first[0] == "event"
    assert np.array_equal(first[1], told[0][1])
    assert end == "end"


@pytest.mark.parametrize("left_over", range(-3, 4))
def test_also_where_the_last_piece_is_just_full(left_over: int) -> None:
    for num_pieces in (1, 2, 3):
        told = b"x" * (num_pieces * (MAX_BYTES - 1) + left_over - 20)  # about that many, with what pickle adds
        joined = Joined()
        values = [joined.add(piece) for piece in pieces(told)]
        assert values[-1] == told
        assert not any(values[:-1])


def test_values_follow_each_other_and_what_is_no_piece_is_one() -> None:
    joined = Joined()
    large = b"y" * (2 * MAX_BYTES)
    sent = [piece for value in (["a"], large, ["b"]) for piece in pieces(value)]
    assert [value for piece in sent if (value := joined.add(piece)) is not None] == [["a"], large, ["b"]]
    assert joined.add(["as an earlier version tells"]) == ["as an earlier version tells"]
