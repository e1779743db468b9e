"""What runs next, of batches."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.contract.errors import QueueFull
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.stage import Share
from stages.contract.work import Work
from stages.engine.scheduling.scheduler import IterativeScheduler
from stages.engine.scheduling.urgency import MAX_WEIGHT, MIN_WEIGHT, weight
from tests.stages.engine.scheduling.entries import Iterative, OneShot, entry, ids


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


@given(st.integers(-100, 100), st.floats(0, 1e6), st.one_of(st.floats(0, 1e6), st.just(math.inf)), st.floats(0, 1e7))
def test_weights_keep_to_their_bounds(priority: int, arrival: float, allowed: float, now: float) -> None:
    each = entry("a", priority=priority, arrival=arrival, deadline=arrival + allowed)
    assert MIN_WEIGHT <= weight(each, now) <= MAX_WEIGHT
