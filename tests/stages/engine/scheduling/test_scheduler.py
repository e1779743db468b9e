"""What runs next, told by a clock that is moved by hand."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.contract.errors import QueueFull
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.stage import Share
from stages.contract.work import Work
from stages.engine.scheduling.scheduler import (
    MAX_PREEMPTIONS,
    Batch,
    Entry,
    IterativeScheduler,
    OneShotScheduler,
    Scheduler,
)
from stages.engine.scheduling.urgency import CLOSE, MAX_WEIGHT, MIN_WEIGHT, makes_way, weight

OneShot = Callable[..., OneShotScheduler[str]]
Iterative = Callable[..., IterativeScheduler[str]]


@pytest.fixture
def one_shot() -> Iterator[OneShot]:
    yield from _checked(lambda batch, queue: OneShotScheduler(batch, queue))


@pytest.fixture
def iterative() -> Iterator[Iterative]:
    yield from _checked(lambda batch, queue: IterativeScheduler(batch, queue))


def _checked(make: Callable[[BatchLimits, QueueLimits], Any]) -> Iterator[Callable[..., Any]]:
    made: list[Scheduler[str]] = []

    def build(batch: BatchLimits = BatchLimits(), queue: QueueLimits = QueueLimits()) -> Any:
        made.append(make(batch, queue))
        return made[-1]

    yield build
    for each in made:
        each.check_integrity()


def entry(
    entry_id: str,
    key: str = "k",
    cost: float = 1.0,
    *,
    priority: int = 0,
    deadline: float = math.inf,
    arrival: float = 0.0,
) -> Entry[str]:
    return Entry(entry_id, entry_id, key, cost, priority, deadline, arrival)


def ids(batch: Batch[str]) -> list[str]:
    return [each.id for each in batch.entries]


# ---- batches ----


def test_an_idle_device_starts_at_once_with_what_there_is(one_shot: OneShot) -> None:
    scheduler = one_shot()
    assert not scheduler.has_work()
    assert ids(scheduler.next_batch(0)) == []
    scheduler.add(entry("a"))
    assert scheduler.has_work()
    assert ids(scheduler.next_batch(0)) == ["a"]


def test_the_batch_stays_open_for_as_long_as_it_is_not_asked_for(one_shot: OneShot) -> None:
    scheduler = one_shot(BatchLimits(max_items=8))
    scheduler.add(entry("a"))
    scheduler.next_batch(0)
    for i in range(8):
        scheduler.add(entry(str(i), arrival=100.0 * i))
    scheduler.complete(["a"], seconds=700)
    assert len(ids(scheduler.next_batch(701))) == 8


def test_a_batch_has_one_key_that_of_whoever_ranks_first(one_shot: OneShot) -> None:
    scheduler = one_shot()
    for each in (entry("a", "x"), entry("b", "y", priority=-1), entry("c", "x"), entry("d", "y")):
        scheduler.add(each)
    assert ids(scheduler.next_batch(0)) == ["b", "d"]
    scheduler.complete(["b", "d"], 1)
    assert ids(scheduler.next_batch(1)) == ["a", "c"]


@pytest.mark.parametrize(("max_items", "expected"), [(1, 1), (2, 2), (5, 5), (6, 5)])
def test_a_batch_is_bounded_by_count(one_shot: OneShot, max_items: int, expected: int) -> None:
    scheduler = one_shot(BatchLimits(max_items=max_items))
    for i in range(5):
        scheduler.add(entry(str(i)))
    assert ids(scheduler.next_batch(0)) == [str(i) for i in range(expected)]


@pytest.mark.parametrize(
    ("costs", "max_cost", "expected"),
    [
        ([4, 4, 4], 8, [["0", "1"], ["2"]]),
        ([4, 4, 4], 7.9, [["0"], ["1"], ["2"]]),
        ([9, 1, 1], 8, [["0"], ["1", "2"]]),  # over the bound: alone
        ([5, 9, 3], 8, [["0", "2"], ["1"]]),  # passed over, then leads
        ([0, 9, 0], 8, [["0", "2"], ["1"]]),
        ([8, 0, 0], 8, [["0", "1", "2"]]),
    ],
)
def test_a_batch_is_bounded_by_cost(one_shot: OneShot, costs: list[float], max_cost: float, expected: list[list[str]]) -> None:
    scheduler = one_shot(BatchLimits(max_cost=max_cost))
    for i, cost in enumerate(costs):
        scheduler.add(entry(str(i), cost=cost))
    batches = []
    while scheduler.has_work():
        batches.append(ids(scheduler.next_batch(0)))
        scheduler.complete(batches[-1], 1)
    assert batches == expected


def test_a_key_with_few_items_overtakes_a_crowd_in_the_end(one_shot: OneShot) -> None:
    scheduler = one_shot(BatchLimits(max_items=4))
    scheduler.add(entry("rare", "rare", arrival=0))
    served, now, serial = 0, 0.0, 0
    while True:
        for _ in range(6):  # more than are served; every one with a deadline, so ahead of who has none
            serial += 1
            scheduler.add(entry(f"c{serial}", "crowd", arrival=now, deadline=now + 50))
        batch = scheduler.next_batch(now)
        if "rare" in ids(batch):
            break
        served += 1
        now += 0.5
        scheduler.complete(ids(batch), 0.5)
    assert served == 4  # that is: after `ageing_s` = 2 s


def test_expired_items_come_out_as_expired_instead_of_running(one_shot: OneShot) -> None:
    scheduler = one_shot()
    scheduler.add(entry("late", deadline=5))
    scheduler.add(entry("soon", deadline=6))
    batch = scheduler.next_batch(5)
    assert [each.id for each in batch.expired] == ["late"]
    assert ids(batch) == ["soon"]


def test_what_waits_can_be_cancelled_and_what_runs_cannot(one_shot: OneShot) -> None:
    scheduler = one_shot(BatchLimits(max_items=1))
    scheduler.add(entry("a"))
    scheduler.add(entry("b"))
    scheduler.next_batch(0)
    assert scheduler.cancel("a") is None
    cancelled = scheduler.cancel("b")
    assert cancelled is not None
    assert cancelled.id == "b"
    assert scheduler.cancel("b") is None
    assert not scheduler.has_work()


def test_what_runs_leaves_room_in_the_queue(one_shot: OneShot) -> None:
    scheduler = one_shot(queue=QueueLimits(max_items=1))
    scheduler.add(entry("a"))
    with pytest.raises(QueueFull):
        scheduler.add(entry("b"))
    scheduler.next_batch(0)
    scheduler.add(entry("b"))


@pytest.mark.parametrize("started", [True, False])
def test_the_same_id_is_not_taken_twice(one_shot: OneShot, iterative: Iterative, started: bool) -> None:
    for scheduler in (one_shot(), iterative()):
        scheduler.add(entry("a"))
        if started and isinstance(scheduler, IterativeScheduler):
            scheduler.start("a", Share("k", 1))
        elif started:
            scheduler.next_batch(0)
        with pytest.raises(ValueError, match=r"a (is )?already"):
            scheduler.add(entry("a"))


def test_load_tells_the_work_ahead_in_seconds(one_shot: OneShot) -> None:
    scheduler = one_shot(BatchLimits(max_items=1))
    for name in "abc":
        scheduler.add(entry(name, cost=10))
    assert scheduler.load().seconds_ahead == 0.0  # nothing is known yet
    scheduler.next_batch(0)
    scheduler.complete(["a"], seconds=2)
    scheduler.next_batch(2)
    load = scheduler.load()
    assert (load.queued, load.running) == (1, 1)
    assert load.seconds_ahead == pytest.approx(2 + 1)  # one waits, one is half done


def test_completing_what_was_cleared_changes_nothing(one_shot: OneShot) -> None:
    scheduler = one_shot(BatchLimits(max_items=1))
    scheduler.add(entry("a"))
    scheduler.add(entry("b"))
    scheduler.next_batch(0)
    assert sorted(each.id for each in scheduler.clear()) == ["a", "b"]
    scheduler.complete(["a"], 1)
    assert scheduler.load().running == 0
    assert not scheduler.has_work()


# ---- steps ----


def started(scheduler: IterativeScheduler[str], *entries: Entry[str]) -> None:
    for each in entries:
        scheduler.add(each)
        assert scheduler.start(each.id, Share(each.batch_key, each.cost))


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


def test_a_batch_that_runs_counts_for_what_is_left_of_it(one_shot: OneShot) -> None:
    scheduler = one_shot(BatchLimits(max_items=2))
    for name in "abcd":
        scheduler.add(entry(name, cost=10))
    scheduler.next_batch(0)
    scheduler.complete(["a", "b"], seconds=4)
    scheduler.next_batch(10)
    assert scheduler.load(10).outstanding == Work(20, 2)
    assert scheduler.load(13).outstanding.steps == pytest.approx(0.5)
    assert scheduler.load(60).outstanding.steps == pytest.approx(0.2)  # it takes longer than was thought, and is not done
    assert scheduler.load(13).seconds_ahead == pytest.approx(1.0)


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


@given(st.integers(-100, 100), st.floats(0, 1e6), st.one_of(st.floats(0, 1e6), st.just(math.inf)), st.floats(0, 1e7))
def test_weights_keep_to_their_bounds(priority: int, arrival: float, allowed: float, now: float) -> None:
    each = entry("a", priority=priority, arrival=arrival, deadline=arrival + allowed)
    assert MIN_WEIGHT <= weight(each, now) <= MAX_WEIGHT
