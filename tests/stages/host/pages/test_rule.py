"""Fetch or compute: what is chosen, and how that is learned."""

import tracemalloc
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.contract.pages import PageRun
from stages.host.pages.rule import TRY_AGAIN_S, FetchRule, within_reach

NAMES = tuple("abcdefgh")
MIB = 2**20


def run(num_resident: int = 0, *, each_holds_all: bool = False) -> PageRun:
    return PageRun(NAMES, num_resident, work=64.0, num_bytes=MIB, each_holds_all=each_holds_all)


def held(memory: str = "", redis: str = "") -> Mapping[str, str]:
    return {**dict.fromkeys(redis, "redis"), **dict.fromkeys(memory, "memory")}


def rule(**seconds_per_page: float) -> FetchRule:
    made = FetchRule()
    for tier, seconds in seconds_per_page.items():
        for count in (1, 4, 8):
            made.observe(tier, count * MIB, count * seconds, now=0.0)
    return made


@pytest.mark.parametrize(
    ("num_resident", "at", "reach"),
    [(0, "abcd", "abcd"), (0, "bcd", ""), (1, "bcd", "bcd"), (1, "bd", "b"), (8, "", ""), (2, "abh", "")],
)
def test_a_run_is_in_reach_up_to_its_first_gap(num_resident: int, at: str, reach: str) -> None:
    assert within_reach(run(num_resident), held(redis=at)) == tuple(reach)


def test_where_each_page_holds_all_gaps_are_none() -> None:
    assert within_reach(run(1, each_holds_all=True), held(redis="acg")) == ("c", "g")


def test_what_nobody_knows_is_tried() -> None:
    assert FetchRule().plan(run(), held(redis="abc"), 1.0, 0.0).names == ("a", "b", "c")
    assert FetchRule().plan(run(), held(redis="abc"), None, 0.0).names == ("a", "b", "c")
    assert rule(redis=9.0).plan(run(), held(redis="abc"), None, 0.0).names == ("a", "b", "c")


def test_the_faster_way_is_taken() -> None:
    assert rule(redis=0.1).plan(run(), held(redis="abc"), 1.0, 0.0).names == ("a", "b", "c")
    assert rule(redis=2.0).plan(run(), held(redis="abc"), 1.0, 0.0).names == ()


def test_a_part_is_fetched_where_only_that_is_faster() -> None:
    plan = rule(memory=0.001, redis=2.0).plan(run(), held(memory="ab", redis="cdef"), 1.0, 0.0)
    assert plan.names == ("a", "b")
    assert plan.fetch_s == pytest.approx(0.002)
    assert plan.compute_s == pytest.approx(6.0)


def test_the_way_counts_once_however_many_pages_come() -> None:
    far = FetchRule()
    for count in (1, 4, 8):
        far.observe("redis", count * MIB, 2.0 + count * 0.01, 0.0)
    assert far.plan(run(), held(redis="ab"), 0.5, 0.0).names == ()
    assert len(far.plan(run(), held(redis="abcdefgh"), 0.5, 0.0).names) == 8


def test_of_pages_that_hold_all_the_one_that_ends_soonest_is_taken() -> None:
    either = run(each_holds_all=True)
    assert rule(memory=0.001, redis=1.0).plan(either, held(memory="c", redis="h"), 0.5, 0.0).names == ("h",)
    assert rule(memory=0.001, redis=9.0).plan(either, held(memory="c", redis="h"), 0.5, 0.0).names == ("c",)


def test_what_was_slow_is_tried_again_now_and_then_with_one_page() -> None:
    slow = rule(redis=5.0)
    plans = [slow.plan(run(), held(redis="abc"), 1.0, now) for now in (1.0, TRY_AGAIN_S, TRY_AGAIN_S + 1, 2 * TRY_AGAIN_S)]
    assert [plan.names for plan in plans] == [(), ("a",), (), ("a",)]
    for _ in range(100):
        slow.observe("redis", MIB, 0.001, 2 * TRY_AGAIN_S)
    assert slow.plan(run(), held(redis="abc"), 1.0, 2 * TRY_AGAIN_S).names == ("a", "b", "c")


def test_a_fetch_that_brings_nothing_late_counts_as_all_that_it_should_have_brought() -> None:
    slow = FetchRule()
    slow.observe("redis", 0, 2.4, 0.0, num_missing_bytes=3 * MIB)
    assert slow.seconds_for("redis", 3 * MIB) == pytest.approx(2.4)
    assert slow.plan(run(), held(redis="abc"), 0.5, 1.0).names == ()


def test_a_tier_that_has_become_slow_is_learned_to_be_however_good_it_was() -> None:
    slow = rule(redis=0.01)
    for _ in range(40):
        slow.observe("redis", 0, 2.4, 0.0, num_missing_bytes=3 * MIB)
    assert slow.plan(run(), held(redis="abc"), 0.5, 1.0).names == ()


@pytest.mark.parametrize("num_bytes", [0, MIB])
def test_what_is_soon_known_to_be_gone_says_nothing_of_the_way(num_bytes: int) -> None:
    known, seconds = rule(redis=0.5), num_bytes / MIB * 0.5
    known.observe("redis", num_bytes, seconds + 0.01, 0.0, num_missing_bytes=8 * MIB)
    assert known.seconds_for("redis", 4 * MIB) == pytest.approx(2.0, rel=0.05)
    fresh = FetchRule()
    fresh.observe("redis", 0, 0.01, 0.0, num_missing_bytes=8 * MIB)
    assert fresh.seconds_for("redis", MIB) is None


def test_planning_takes_no_more_memory_a_page_however_many_there_are() -> None:
    names = tuple(f"page {number}" for number in range(4000))
    asked, at, known = PageRun(names, work=64.0, num_bytes=MIB), dict.fromkeys(names, "redis"), rule(redis=0.1)
    tracemalloc.start()
    try:
        plan = known.plan(asked, at, 1.0, 0.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert plan.names == names
    assert peak < 1000 * len(names)


SPEEDS = st.floats(1e-4, 10.0)


@given(st.integers(0, 8), st.text("abcdefgh"), st.text("abcdefgh"), SPEEDS, SPEEDS, SPEEDS, st.booleans())
def test_nothing_is_fetched_that_is_expected_to_take_longer(
    num_resident: int, memory: str, redis: str, memory_s: float, redis_s: float, page_s: float, each_holds_all: bool
) -> None:
    known, at = rule(memory=memory_s, redis=redis_s), held(memory, redis)
    asked = run(num_resident, each_holds_all=each_holds_all)
    plan = known.plan(asked, at, page_s, now=1.0)
    assert set(plan.names) <= set(at) & set(NAMES[num_resident:])
    if not plan.names:
        return
    assert plan.fetch_s is not None
    last = NAMES.index(plan.names[-1])
    if each_holds_all:
        assert len(plan.names) == 1
    else:
        assert plan.names == NAMES[num_resident : last + 1]
    assert plan.fetch_s <= (last + 1 - num_resident) * page_s * (1 + 1e-6)


@given(st.integers(0, 8), st.text("abcdefgh", min_size=1), SPEEDS)
def test_as_long_as_a_tier_is_unknown_all_in_reach_is_fetched(num_resident: int, redis: str, page_s: float) -> None:
    asked, at = run(num_resident), held(redis=redis)
    assert FetchRule().plan(asked, at, page_s, 0.0).names == within_reach(asked, at)
