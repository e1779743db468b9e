"""How much of a device a step had beside others, and what is expected of who shares one."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.contract.cost import shared_s
from stages.contract.engine import Load
from stages.device.shared_device import SharedDevice

SECONDS = st.floats(0.0, 100.0)


def test_a_step_that_nobody_computed_beside_had_the_device_all_the_time() -> None:
    device = SharedDevice()
    one, _ = device.share(), device.share()
    one.begin(10.0)
    assert one.end(12.5) == pytest.approx(2.5)
    one.begin(20.0)
    assert one.end(21.0) == pytest.approx(1.0)


def test_who_computes_at_the_same_moment_has_half_of_it() -> None:
    device = SharedDevice()
    one, other = device.share(), device.share()
    one.begin(0.0)
    other.begin(1.0)
    assert one.end(3.0) == pytest.approx(1.0 + 2.0 / 2)
    assert other.end(4.0) == pytest.approx(2.0 / 2 + 1.0)


def test_where_there_are_cores_for_both_neither_is_slower_and_nobody_says_so() -> None:
    device = SharedDevice(room=2.0)
    one, other = device.share(), device.share()
    other.is_of(lambda: Load(1, 0, 7.0))
    one.begin(0.0)
    other.begin(0.0)
    assert one.end(3.0) == pytest.approx(3.0)
    assert not one.is_shared
    assert one.others_s() == []


def test_what_the_others_have_to_do_is_told_and_not_ones_own() -> None:
    device = SharedDevice()
    shares = [device.share() for _ in range(3)]
    assert shares[0].is_shared
    for number, share in enumerate(shares):
        share.is_of(lambda number=number: Load(1, 0, float(number)))  # type: ignore[misc]
    assert shares[1].others_s() == [0.0, 2.0]


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=12))
def test_all_together_have_had_the_device_for_as_long_as_anybody_computed(steps: list[tuple[float, float]]) -> None:
    device, had_s = SharedDevice(), 0.0
    shares = [device.share() for _ in steps]
    events = [(began, 1, number) for number, (began, _) in enumerate(steps)]
    events += [(began + took, -1, number) for number, (began, took) in enumerate(steps)]
    num_busy, busy_s, before = 0, 0.0, 0.0
    for at, change, number in sorted(events, key=lambda event: (event[0], -event[1])):
        busy_s, before = busy_s + (at - before if num_busy else 0.0), at
        num_busy += change
        if change > 0:
            shares[number].begin(at)
        else:
            had_s += shares[number].end(at)
    assert had_s == pytest.approx(busy_s, abs=1e-6)


def in_slices(needs: Sequence[float], slice_s: float = 0.001) -> float:
    """Until the first of them is done, each having a slice of the device in turn."""
    left, now = list(needs), 0.0
    while True:
        for number, need in enumerate(left):
            if need > 0:
                left[number] = need - slice_s
                now += slice_s
                if number == 0 and left[0] <= 0:
                    return now


@given(st.floats(0.01, 1.0), st.lists(st.floats(0.0, 2.0), max_size=4))
def test_beside_others_it_takes_as_long_as_if_all_had_slices_in_turn(alone_s: float, others_s: list[float]) -> None:
    assert shared_s(alone_s, others_s) == pytest.approx(in_slices([alone_s, *others_s]), abs=0.01)
