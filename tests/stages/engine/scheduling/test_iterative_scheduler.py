"""What runs next, of rows that are stepped."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from stages.contract.limits import BatchLimits
from stages.contract.stage import Share
from stages.contract.work import Work
from stages.engine.scheduling.scheduler import (
    MAX_PREEMPTIONS,
    Batch,
    IterativeScheduler,
)
from stages.engine.scheduling.urgency import CLOSE, makes_way
from tests.stages.engine.scheduling.entries import Iterative, entry, ids, started


def step(
    scheduler: IterativeScheduler[str], now: float = 0.0, done: str = "", shares: Mapping[str, Share] | None = None
) -> str:
    batch = scheduler.next_batch(now)
    scheduler.complete(ids(batch), 1.0, done=set(done), shares=shares or {})
    return "".join(ids(batch))


def test_what_waits_takes_part_in_no_step_until_it_is_started(iterative: Iterative) -> None:
    scheduler = iterative()
    scheduler.add(entry("a"))
    assert scheduler.has_work()
    assert step(scheduler) == ""
    first = scheduler.next_to_start(0)
    assert first is not None
    assert scheduler.start(first.id, Share("k", 1))
    assert scheduler.next_to_start(0) is None
    assert step(scheduler) == "a"


def test_the_best_ranked_starts_first_and_nobody_is_let_past(iterative: Iterative) -> None:
    scheduler = iterative()
    for each in (entry("a"), entry("b", priority=-1), entry("c", deadline=9)):
        scheduler.add(each)
    order = []
    while (first := scheduler.next_to_start(0)) is not None:
        order.append(first.id)
        scheduler.start(first.id, Share("k", 1))
    assert order == ["b", "c", "a"]


def test_rows_stay_until_they_are_done_and_may_join_between_any_two_steps(iterative: Iterative) -> None:
    scheduler = iterative()
    started(scheduler, entry("a"))
    assert step(scheduler) == "a"
    started(scheduler, entry("b"))
    assert sorted(step(scheduler, done="a")) == ["a", "b"]
    assert step(scheduler, done="b") == "b"
    assert not scheduler.has_work()


def test_several_keys_alternate(iterative: Iterative) -> None:
    scheduler = iterative()
    started(scheduler, entry("a", "x"), entry("b", "x"), entry("c", "y"), entry("d", "z"))
    assert [step(scheduler) for _ in range(6)] == ["ab", "c", "d", "ab", "c", "d"]


def test_rows_over_the_count_bound_take_turns(iterative: Iterative) -> None:
    scheduler = iterative(BatchLimits(max_items=2))
    started(scheduler, *(entry(name) for name in "abc"))
    assert [step(scheduler) for _ in range(3)] == ["ab", "ca", "bc"]


def test_rows_over_the_cost_bound_take_turns(iterative: Iterative) -> None:
    scheduler = iterative(BatchLimits(max_cost=3))
    started(scheduler, entry("a", cost=2), entry("b", cost=9), entry("c", cost=1))
    assert [step(scheduler) for _ in range(4)] == ["ac", "b", "ac", "b"]


def test_a_row_close_to_its_deadline_is_stepped_more_often(iterative: Iterative) -> None:
    scheduler = iterative()
    started(scheduler, entry("a", "x", deadline=1000), entry("b", "y", deadline=100))
    steps = "".join(step(scheduler, now=99) for _ in range(30))
    assert 1.7 <= steps.count("b") / steps.count("a") <= 2.0


def test_an_urgent_row_is_stepped_more_often_than_a_patient_one(iterative: Iterative) -> None:
    scheduler = iterative()
    started(scheduler, entry("a", "x", priority=1), entry("b", "y", priority=-1))
    steps = "".join(step(scheduler) for _ in range(50))
    assert 3 <= steps.count("b") / steps.count("a") <= 5


def test_a_row_may_change_its_key_and_cost_from_step_to_step(iterative: Iterative) -> None:
    scheduler = iterative(BatchLimits(max_cost=10))
    started(scheduler, entry("a", "prefill", 10), entry("b", "decode", 1))
    assert step(scheduler, shares={"a": Share("decode", 1)}) == "a"
    assert step(scheduler) == "ba"


@pytest.mark.parametrize("moment", ["queued", "running", "in a step"])
def test_a_row_can_be_cancelled_at_any_moment(iterative: Iterative, moment: str) -> None:
    scheduler = iterative()
    scheduler.add(entry("a"))
    batch: Batch[str] = Batch()
    if moment != "queued":
        scheduler.start("a", Share("k", 1))
    if moment == "in a step":
        batch = scheduler.next_batch(0)
    cancelled = scheduler.cancel("a")
    assert cancelled is not None
    assert cancelled.id == "a"
    assert scheduler.cancel("a") is None
    scheduler.complete(ids(batch), 1.0, done=(), shares={"a": Share("k", 2)})
    assert not scheduler.has_work()


def test_starting_what_was_cancelled_meanwhile_is_told(iterative: Iterative) -> None:
    scheduler = iterative()
    scheduler.add(entry("a"))
    scheduler.cancel("a")
    assert not scheduler.start("a", Share("k", 1))
    assert not scheduler.has_work()


@pytest.mark.parametrize("running", [True, False])
def test_a_row_past_its_deadline_comes_out_as_expired(iterative: Iterative, running: bool) -> None:
    scheduler = iterative()
    scheduler.add(entry("a", deadline=5))
    if running:
        scheduler.start("a", Share("k", 1))
    assert scheduler.next_batch(4.9).expired == []
    batch = scheduler.next_batch(5)
    assert [each.id for each in batch.expired] == ["a"]
    assert ids(batch) == []
    assert not scheduler.has_work()


def test_what_is_left_of_rows_is_what_was_foreseen_less_what_was_done(iterative: Iterative) -> None:
    scheduler = iterative()
    started(scheduler, replace(entry("a"), expected=Work(5, 5)))
    scheduler.add(replace(entry("b"), expected=Work(3, 3)))
    assert scheduler.load().seconds_ahead == 0.0  # nothing is known yet
    step(scheduler)
    load = scheduler.load()
    assert (load.num_items, load.outstanding) == (2, Work(7, 7))
    assert load.seconds_ahead == pytest.approx(3.5 * 2)  # seven steps of one row; by one sighting two rows take twice as long
    for _ in range(9):
        step(scheduler)
    assert scheduler.load().outstanding == Work(4, 4)  # "a" was to be done by now, and goes on: one more, at least


def test_what_a_stage_says_is_left_of_a_row_is_believed(iterative: Iterative) -> None:
    scheduler = iterative()
    started(scheduler, replace(entry("a"), expected=Work(5, 5)))
    step(scheduler, shares={"a": Share("k", 1, rest=Work(40, 20))})
    assert scheduler.load().outstanding == Work(40, 20)


def test_a_row_that_makes_way_has_done_what_it_has_done(iterative: Iterative) -> None:
    scheduler = iterative(BatchLimits(max_items=1))
    started(scheduler, replace(entry("a", priority=1), expected=Work(5, 5)))
    step(scheduler)
    scheduler.add(replace(entry("b"), expected=Work(2, 2)))
    assert scheduler.preempt(0) is not None
    assert scheduler.load().outstanding == Work(4 + 2, 4 + 2)


def test_items_of_which_nobody_knows_how_much_they_are_are_like_those_before(iterative: Iterative) -> None:
    scheduler = iterative()
    for number in range(200):
        started(scheduler, entry(str(number)))
        for _ in range(9):
            step(scheduler)
        scheduler.complete(ids(scheduler.next_batch(0)), 1.0, done={str(number)}, shares={})
    scheduler.add(entry("x"))
    assert scheduler.load().outstanding.steps == pytest.approx(10, rel=0.01)


def test_a_step_that_did_not_go_well_tells_nothing_of_the_device(iterative: Iterative) -> None:
    scheduler = iterative()
    started(scheduler, replace(entry("a"), expected=Work(5, 5)))
    scheduler.complete(ids(scheduler.next_batch(0)), 1.0, done=(), shares={}, went_well=False)
    assert scheduler.load().speed is None
    assert scheduler.load().outstanding == Work(5, 5)


def test_clearing_returns_what_waits_and_what_runs(iterative: Iterative) -> None:
    scheduler = iterative()
    started(scheduler, entry("a"))
    scheduler.add(entry("b"))
    assert sorted(each.id for each in scheduler.clear()) == ["a", "b"]
    assert not scheduler.has_work()


def test_rows_start_only_where_they_fit_a_step_of_their_key(iterative: Iterative) -> None:
    """16 rows of 20 steps where 2 fit a step: each starts when it can run, and waits 90 steps on average instead of 156."""
    scheduler = iterative(BatchLimits(max_items=16, max_cost=2))
    for number in range(16):
        scheduler.add(entry(f"{number:02}"))
    left = {f"{number:02}": 20 for number in range(16)}
    ended: list[int] = []
    for number in range(1, 1000):
        while (first := scheduler.next_to_start(0)) is not None:
            assert scheduler.start(first.id, Share("k", 1))
        chosen = ids(scheduler.next_batch(0))
        for name in chosen:
            left[name] -= 1
        done = [name for name in chosen if not left[name]]
        ended += [number] * len(done)
        scheduler.complete(chosen, 1.0, done=done, shares={})
        if not scheduler.has_work():
            break
    assert sum(ended) / 16 == 90


def test_others_of_a_key_without_room_are_not_let_past_but_other_keys_are(iterative: Iterative) -> None:
    scheduler = iterative(BatchLimits(max_items=16, max_cost=10))
    started(scheduler, entry("a", "x", 6))
    for each in (entry("large", "x", 8), entry("small", "x", 1), entry("other", "y", 9)):
        scheduler.add(each)
    first = scheduler.next_to_start(0)
    assert first is not None
    assert first.id == "other"
    scheduler.start("other", Share("y", 9))
    assert scheduler.next_to_start(0) is None
    scheduler.cancel("a")
    following = scheduler.next_to_start(0)
    assert following is not None
    assert following.id == "large"


def test_what_is_too_much_for_any_step_starts_once_nothing_of_its_key_runs(iterative: Iterative) -> None:
    scheduler = iterative(BatchLimits(max_items=16, max_cost=10))
    started(scheduler, entry("a", "x", 1))
    scheduler.add(entry("huge", "x", 99))
    assert scheduler.next_to_start(0) is None
    step(scheduler, done="a")
    first = scheduler.next_to_start(0)
    assert first is not None
    assert first.id == "huge"


def test_after_a_start_that_ran_out_of_memory_nobody_starts_until_a_row_has_left(iterative: Iterative) -> None:
    scheduler = iterative()
    started(scheduler, entry("a"), entry("b"))
    scheduler.add(entry("c"))
    scheduler.hold()
    assert scheduler.next_to_start(0) is None
    step(scheduler, done="a")
    assert scheduler.next_to_start(0) is not None


def test_rows_beyond_a_lowered_bound_wait_in_their_old_place(iterative: Iterative) -> None:
    scheduler = iterative()
    started(scheduler, *(entry(name, arrival=number) for number, name in enumerate("abcd")))
    scheduler.add(entry("e", arrival=9))
    scheduler.bound.ran_out(4, 4)
    assert [each.id for each in iter(scheduler.take_excess, None)] == ["d", "c"]
    assert step(scheduler, done="a") == "ab"
    first = scheduler.next_to_start(9)
    assert first is not None
    assert (first.id, first.arrival, first.num_preempted) == ("c", 2, 0)


ROW = entry("row", arrival=50.0, deadline=1000.0)


@pytest.mark.parametrize(
    ("newcomer", "now", "expected"),
    [
        ({"priority": -1, "arrival": 90.0}, 90, True),  # more urgent
        ({"priority": 1, "arrival": 0.0, "deadline": 100.0}, 99, False),  # less, however late
        ({"arrival": 40.0, "deadline": 140.0}, 100, False),  # its deadline is not close
        ({"arrival": 40.0, "deadline": 140.0}, 40 + 100 * CLOSE, True),  # it came first, and its deadline is close
        ({"arrival": 60.0, "deadline": 65.0}, 64.9, False),  # a short deadline is no turn
        ({"arrival": 40.0, "deadline": 640.0}, 600, True),
        ({"arrival": 40.0, "deadline": 1040.0}, 900, False),  # the row's own is closer
        ({"arrival": 40.0}, 900, False),  # no deadline
    ],
)
def test_a_row_makes_way_for_priority_and_for_whose_turn_it_is(newcomer: dict[str, Any], now: float, expected: bool) -> None:
    assert makes_way(ROW, entry("new", **newcomer), now) is expected


def test_a_client_that_sends_short_deadlines_never_takes_a_running_rows_place(iterative: Iterative) -> None:
    scheduler = iterative(BatchLimits(max_items=2))
    started(scheduler, entry("a", deadline=600), entry("b"))
    for now in range(1, 100):
        scheduler.add(entry(f"hurried {now}", arrival=now, deadline=now + 5))
        scheduler.next_batch(now)
        assert scheduler.preempt(now) is None


def test_a_row_makes_way_a_bounded_number_of_times(iterative: Iterative) -> None:
    scheduler = iterative(BatchLimits(max_items=1))
    started(scheduler, entry("patient", priority=1))
    for now in range(1, MAX_PREEMPTIONS + 3):
        scheduler.add(entry(f"urgent {now}", priority=0, arrival=now))
        taken = scheduler.preempt(now)
        assert (taken is not None) == (now <= MAX_PREEMPTIONS)
        if taken is None:
            return
        scheduler.start(f"urgent {now}", Share("k", 1))
        scheduler.complete([f"urgent {now}"], 1, done=[f"urgent {now}"], shares={})
        scheduler.start("patient", Share("k", 1))
    raise AssertionError("it would go on for ever")


def test_no_row_makes_way_where_that_would_not_make_room(iterative: Iterative) -> None:
    scheduler = iterative(BatchLimits(max_items=16, max_cost=10))
    started(scheduler, entry("firm", "x", 6), entry("patient", "x", 4, priority=1), entry("other", "y", 1, priority=1))
    scheduler.add(entry("large", "x", 8))
    assert scheduler.preempt(0) is None  # the firm one stays, and beside it there is no room even alone
    scheduler.add(entry("fitting", "x", 4, priority=-1))
    taken = scheduler.preempt(0)
    assert taken is not None
    assert taken.id == "patient"
