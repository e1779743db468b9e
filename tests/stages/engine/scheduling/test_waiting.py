"""The waiting line: order, ageing, expiry, bounds, and when it says to come back."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.contract.errors import ConfigurationError, QueueFull
from stages.contract.item import DEFAULT_TENANT
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.work import Work
from stages.engine.scheduling.waiting import Drain, Entry, WaitingLine, unknown_s

Make = Callable[..., WaitingLine[str]]
AGEING_S = 2.0


@pytest.fixture
def line() -> Iterator[Make]:
    made: list[WaitingLine[str]] = []

    def make(limits: QueueLimits = QueueLimits(), drain_s: Drain = unknown_s, ageing_s: float = AGEING_S) -> WaitingLine[str]:
        made.append(WaitingLine("s", limits, ageing_s, drain_s))
        return made[-1]

    yield make
    for each in made:
        each.check_integrity()


def entry(
    entry_id: str,
    priority: int = 0,
    deadline: float = math.inf,
    arrival: float = 0.0,
    cost: float = 1.0,
    ready: bool = True,
) -> Entry[str]:
    return Entry(entry_id, entry_id, "key", cost, priority, deadline, arrival, ready)


def order(waiting: WaitingLine[str], now: float = 0.0) -> str:
    return "".join(each.id for each in waiting.ranked(now))


@pytest.mark.parametrize(
    ("entries", "now", "expected"),
    [
        ([entry("a"), entry("b")], 0, "ab"),
        ([entry("a", arrival=1), entry("b", arrival=0.5)], 1, "ba"),
        ([entry("a", deadline=9), entry("b", deadline=8)], 0, "ba"),
        ([entry("a"), entry("b", deadline=1e9)], 0, "ba"),
        ([entry("a", priority=1, deadline=1), entry("b", priority=0)], 0, "ba"),
        ([entry("a", priority=0), entry("b", priority=-1)], 0, "ba"),
        # Both have waited less than it takes to age.
        ([entry("a", priority=1), entry("b", priority=0, arrival=1.9)], 1.99, "ba"),
        # The first has aged by one level, and is then older among equals.
        ([entry("a", priority=1), entry("b", priority=0, arrival=1.9)], 2.0, "ab"),
        # Ageing beats a deadline in the end: a stream of urgent deadlines can't keep out who has none.
        ([entry("a"), entry("b", deadline=9, arrival=1.9)], 1.99, "ba"),
        ([entry("a"), entry("b", deadline=9, arrival=1.9)], 2.0, "ab"),
        ([entry("a", priority=3), entry("b", priority=0, arrival=7)], 7.5, "ab"),
        ([entry("a", priority=4), entry("b", priority=0, arrival=7)], 7.5, "ba"),
        ([entry("a", ready=False), entry("b")], 0, "b"),
    ],
)
def test_priority_then_deadline_then_arrival_with_ageing(
    line: Make, entries: list[Entry[str]], now: float, expected: str
) -> None:
    waiting = line()
    for each in entries:
        waiting.add(each)
    assert order(waiting, now) == expected
    first = waiting.first(now)
    assert first is not None
    assert first.id == expected[0]


@given(
    st.integers(-5, 5),
    st.integers(0, 5),
    st.floats(0.1, 10),
    st.floats(0, 100),
    st.floats(0, 50),
    st.floats(0, 50),
    st.sampled_from([0.5, 1.0, 2.0, 5.0]),
)
def test_whatever_arrives_late_enough_never_ranks_before(
    priority: int, advantage: int, later: float, arrival: float, wait: float, deadline_in: float, ageing_s: float
) -> None:
    waiting: WaitingLine[str] = WaitingLine("s", QueueLimits(), ageing_s)
    second = arrival + (advantage + 1) * ageing_s * 1.001 + later
    waiting.add(entry("first", priority, arrival=arrival))
    waiting.add(entry("second", priority - advantage, deadline=second + deadline_in, arrival=second))
    first = waiting.first(second + wait)
    assert first is not None
    assert first.id == "first"


def test_an_empty_line_has_no_first(line: Make) -> None:
    assert line().first(0) is None
    assert not line().has_ready()


def test_the_same_id_is_not_taken_twice(line: Make) -> None:
    waiting = line()
    waiting.add(entry("a"))
    with pytest.raises(ValueError, match="a already waits"):
        waiting.add(entry("a"))


@pytest.mark.parametrize("deadline", [5.0, 4.999, -1.0])
@pytest.mark.parametrize("ready", [True, False])
def test_what_is_past_its_deadline_comes_out_as_expired(line: Make, deadline: float, ready: bool) -> None:
    waiting = line()
    waiting.add(entry("late", deadline=deadline, ready=ready))
    waiting.add(entry("early", deadline=5.001))
    assert [each.id for each in waiting.take_expired(5.0)] == ["late"]
    assert order(waiting) == "early"
    assert waiting.take_expired(5.0) == []


def test_a_count_over_the_bound_is_refused_with_value_limit_and_setting(line: Make) -> None:
    waiting = line(QueueLimits(max_items=2))
    waiting.add(entry("a"))
    waiting.add(entry("b", ready=False))  # what is being prepared takes room too
    with pytest.raises(QueueFull, match=r"stage s is full: 2 items wait, and queue\.max_items is 2"):
        waiting.add(entry("c"))
    waiting.take("b")
    waiting.add(entry("c"))


def test_what_nobody_waits_for_is_let_into_half_of_the_line_and_leaves_the_rest_to_others(line: Make) -> None:
    waiting = line(QueueLimits(max_items=4, max_cost=10))
    waiting.add(entry("a", priority=10))
    waiting.add(entry("b", priority=1))
    with pytest.raises(
        QueueFull, match=r"queue\.max_items is 4, of which what has a priority over 0 \(it has 1\) may take half"
    ):
        waiting.add(entry("c", priority=1))
    waiting.add(entry("c"))
    waiting.take("a")
    waiting.take("b")
    with pytest.raises(
        QueueFull, match=r"queue\.max_cost is 10, of which what has a priority over 0 \(it has 2\) may take half"
    ):
        waiting.add(entry("d", priority=2, cost=5))
    waiting.add(entry("d", cost=5))


def test_what_a_newcomer_goes_before_is_told_until_it_has_aged(line: Make) -> None:
    waiting = line()
    assert waiting.left_for_later(0.0) == {}
    for each in (entry("a", cost=3), entry("b", priority=1, cost=4), entry("c", priority=10, cost=5)):
        waiting.add(each)
    waiting.add(replace(entry("d", priority=1, cost=7), tenant="another"))
    tenant = DEFAULT_TENANT
    assert waiting.left_for_later(0.0) == {tenant: (Work(9.0, 2.0), 2), "another": (Work(7.0, 1.0), 1)}
    assert waiting.left_for_later(AGEING_S) == {tenant: (Work(5.0, 1.0), 1)}
    waiting.take("d")
    assert waiting.left_for_later(None) == {tenant: (Work(9.0, 2.0), 2)}
    waiting.amend("c", 0, math.inf)  # somebody waits for it after all
    assert waiting.left_for_later(0.0) == {tenant: (Work(4.0, 1.0), 1)}
    waiting.take("b")
    assert waiting.left_for_later(0.0) == {}


def test_a_cost_over_the_bound_is_refused(line: Make) -> None:
    waiting = line(QueueLimits(max_cost=10))
    waiting.add(entry("a", cost=6))
    with pytest.raises(QueueFull, match=r"work of 6 waits, this would add 5, and queue\.max_cost is 10"):
        waiting.add(entry("b", cost=5))
    waiting.add(entry("c", cost=4))


def test_a_single_item_over_the_cost_bound_is_taken_into_an_empty_queue(line: Make) -> None:
    waiting = line(QueueLimits(max_cost=10))
    waiting.add(entry("a", cost=11))
    with pytest.raises(QueueFull):
        waiting.add(entry("b", cost=0.5))


def test_a_prepared_item_can_run_with_its_real_cost(line: Make) -> None:
    waiting = line(QueueLimits(max_cost=10))
    waiting.add(entry("a", cost=3, ready=False))
    assert not waiting.has_ready()
    assert waiting.cost == 3  # an estimate counts from the start
    assert waiting.ready("a", "k", 7.0)
    assert waiting.has_ready()
    assert waiting.cost == 7
    assert [(each.batch_key, each.cost) for each in waiting.ranked(0)] == [("k", 7.0)]


def test_who_is_prepared_first_does_not_overtake(line: Make) -> None:
    waiting = line()
    for name in "ab":
        waiting.add(entry(name, ready=False))
    waiting.ready("b", "k", 1.0)
    waiting.ready("a", "k", 1.0)
    assert order(waiting) == "ab"


def test_what_is_being_prepared_counts_by_its_estimate(line: Make) -> None:
    waiting = line(QueueLimits(max_cost=10))
    waiting.add(entry("a", cost=6, ready=False))
    with pytest.raises(QueueFull, match=r"work of 6 waits, this would add 5, and queue\.max_cost is 10"):
        waiting.add(entry("b", cost=5, ready=False))


def test_a_prepared_item_that_proves_too_costly_is_refused_and_gone(line: Make) -> None:
    waiting = line(QueueLimits(max_cost=10))
    waiting.add(entry("a", cost=6))
    waiting.add(entry("b", ready=False))
    with pytest.raises(QueueFull):
        waiting.ready("b", "k", 5.0)
    assert "b" not in waiting


def test_a_prepared_item_that_costs_no_more_than_was_thought_is_never_refused(line: Make) -> None:
    waiting = line(QueueLimits(max_cost=10))
    waiting.add(entry("a", cost=12, ready=False))
    assert waiting.ready("a", "k", 12.0)
    waiting.take("a")
    waiting.add(entry("b", cost=6, ready=False))
    waiting.add(entry("c", cost=4, ready=False))
    assert waiting.ready("b", "k", 6.0)
    assert waiting.ready("c", "k", 3.0)


def test_preparing_what_is_gone_changes_nothing(line: Make) -> None:
    waiting = line()
    waiting.add(entry("a", ready=False))
    waiting.take("a")
    assert not waiting.ready("a", "k", 1.0)
    assert len(waiting) == 0


@pytest.mark.parametrize("cost", [-1.0, math.nan, math.inf])
def test_an_impossible_cost_is_refused(line: Make, cost: float) -> None:
    with pytest.raises(ValueError, match="the cost of a is"):
        entry("a", cost=cost)
    waiting = line()
    waiting.add(entry("a", ready=False))
    with pytest.raises(ValueError, match="the cost of a is"):
        waiting.ready("a", "k", cost)
    assert "a" not in waiting


def test_new_bounds_judge_what_comes_and_not_what_waits(line: Make) -> None:
    waiting = line(QueueLimits(max_items=3, max_cost=10))
    for name in "ab":
        waiting.add(entry(name, cost=4, ready=False))
    waiting.limit(QueueLimits(max_items=2, max_cost=5))
    assert waiting.ready("a", "k", 6.0)
    with pytest.raises(QueueFull, match=r"queue\.max_items is 2"):
        waiting.add(entry("c"))
    waiting.take("a")
    with pytest.raises(QueueFull, match=r"queue\.max_cost is 5"):
        waiting.add(entry("c", cost=2))
    waiting.limit(QueueLimits(max_items=3, max_cost=10))
    waiting.add(entry("c", cost=2))


def test_what_is_set_aside_counts_for_nothing(line: Make) -> None:
    waiting = line(QueueLimits(max_items=1, max_cost=10))
    waiting.add(entry("a", cost=8))
    waiting.set_aside("a")
    assert (len(waiting), waiting.cost, waiting.num_preparing, waiting.has_ready()) == (0, 0, 0, False)
    assert waiting.first(0) is None
    waiting.add(entry("b", cost=9))
    with pytest.raises(ValueError, match="a already waits"):
        waiting.add(entry("a"))


def test_what_was_set_aside_is_prepared_again_and_waits_in_its_old_place_whatever_has_come_meanwhile(line: Make) -> None:
    waiting = line(QueueLimits(max_items=1, max_cost=10))
    waiting.add(entry("a", cost=8, arrival=0))
    waiting.set_aside("a")
    waiting.add(entry("b", cost=9, arrival=1))
    assert waiting.bring_back("a")
    assert (len(waiting), waiting.cost, waiting.num_preparing) == (2, 17, 1)
    assert order(waiting) == "b"
    assert waiting.ready("a", "k", 9.5)  # no bound applies to what was let in before
    assert order(waiting) == "ab"
    with pytest.raises(QueueFull, match="2 items wait"):
        waiting.add(entry("c"))


def test_what_is_not_aside_is_not_brought_back(line: Make) -> None:
    waiting = line()
    assert not waiting.bring_back("gone")
    waiting.add(entry("a"))
    assert not waiting.bring_back("a")
    waiting.set_aside("a")
    assert waiting.bring_back("a")
    assert not waiting.bring_back("a")
    assert len(waiting) == 1


def test_what_is_set_aside_may_expire_be_amended_and_be_taken(line: Make) -> None:
    waiting = line()
    for name in "abc":
        waiting.add(entry(name, priority=1, deadline=5))
        waiting.set_aside(name)
    waiting.amend("a", priority=0, deadline=7)
    taken = waiting.take("b")
    assert taken is not None
    assert taken.id == "b"
    assert waiting.take("b") is None
    assert [each.id for each in waiting.take_expired(5)] == ["c"]
    assert waiting.bring_back("a")
    assert [(each.priority, each.deadline) for each in waiting] == [(0, 7)]


def test_taking_all_takes_what_is_set_aside_too(line: Make) -> None:
    waiting = line()
    for name in "ab":
        waiting.add(entry(name))
    waiting.set_aside("a")
    assert sorted(each.id for each in waiting.take_all()) == ["a", "b"]
    assert "a" not in waiting
    assert waiting.take_all() == []


def test_amending_takes_the_more_urgent_priority_and_the_later_deadline(line: Make) -> None:
    waiting = line()
    waiting.add(entry("a", priority=1, deadline=5))
    waiting.amend("a", priority=0, deadline=4)
    waiting.amend("a", priority=2, deadline=7)
    waiting.amend("gone", priority=0, deadline=7)
    assert [(each.priority, each.deadline) for each in waiting] == [(0, 7)]


def test_the_time_to_come_back_is_that_of_half_of_what_waits(line: Make) -> None:
    asked: list[tuple[Work, int]] = []

    def drain_s(work: Work, num_items: int) -> float:
        asked.append((work, num_items))
        return 20.0

    waiting = line(QueueLimits(max_items=10), drain_s)
    for i in range(10):
        waiting.add(entry(str(i), cost=4))
    assert waiting.retry_after_s() == 10.0
    with pytest.raises(QueueFull) as refused:
        waiting.add(entry("x"))
    assert refused.value.retry_after_s == 10.0
    assert asked == [(Work(40, 10), 10)] * 2


def test_nobody_is_told_to_come_back_at_once(line: Make) -> None:
    waiting = line()
    waiting.add(entry("a"))
    assert waiting.retry_after_s() == 1.0  # nothing is known yet


def test_what_is_left_to_do_follows_what_waits(line: Make) -> None:
    waiting = line()
    waiting.add(entry("a", cost=4))
    waiting.add(replace(entry("b", cost=4, ready=False), expected=Work(100, 25)))
    assert waiting.outstanding == Work(104, 26)
    waiting.ready("b", "k", 6)
    waiting.set_aside("a")
    assert waiting.outstanding == Work(100, 25)
    waiting.bring_back("a")
    waiting.take("b")
    assert waiting.outstanding == Work(4, 1)
    waiting.take("a")
    assert waiting.outstanding == Work(0, 0)


@pytest.mark.parametrize("limits", [BatchLimits, QueueLimits])
@pytest.mark.parametrize(
    ("max_items", "max_cost", "setting"), [(0, 1.0, "max_items"), (1, 0.0, "max_cost"), (1, math.nan, "max_cost")]
)
def test_impossible_limits_are_refused_by_name(
    limits: type[BatchLimits] | type[QueueLimits], max_items: int, max_cost: float, setting: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"(batch|queue)\.{setting}: .* is not allowed"):
        limits(max_items, max_cost)


def test_other_bounds_count_from_now_on_and_what_waits_stays(line: Make) -> None:
    waiting = line(QueueLimits(max_items=3))
    for name in "abc":
        waiting.add(entry(name))
    waiting.limit(QueueLimits(max_items=2))
    waiting.check_integrity()
    assert order(waiting) == "abc"
    waiting.take("a")
    with pytest.raises(QueueFull, match=r"queue\.max_items is 2"):
        waiting.add(entry("d"))
    waiting.limit(QueueLimits(max_items=3))
    waiting.add(entry("d"))
