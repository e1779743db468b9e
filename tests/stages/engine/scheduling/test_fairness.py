"""Several tenants on one device: nobody is crowded out, whatever others send and whatever they claim."""

import math
from collections import Counter
from collections.abc import Collection
from contextlib import suppress

import pytest

from stages.contract.errors import QueueFull
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.stage import Share
from stages.engine.scheduling.fairness import VirtualCounters
from stages.engine.scheduling.scheduler import MAX_PREEMPTIONS, Entry, IterativeScheduler, OneShotScheduler
from tests.stages.engine.scheduling.tenants import ROOM, batch, entry, ids, start_all


def flood(scheduler: OneShotScheduler[str] | IterativeScheduler[str], tenant: str, count: int, *, cost: float = 1.0) -> None:
    for number in range(count):
        scheduler.add(entry(f"{tenant}{number}", tenant, cost=cost))


def step(scheduler: IterativeScheduler[str], done: Collection[str] = ()) -> list[str]:
    """Takes as many seconds as it costs."""
    chosen = scheduler.next_batch(0.0)
    scheduler.complete(ids(chosen.entries), chosen.cost, done=done, shares={})
    scheduler.check_integrity()
    return ids(chosen.entries)


def test_what_ran_is_charged_by_cost_and_a_weight_halves_it() -> None:
    counters = VirtualCounters({"heavy": 2.0})
    counters.charge({"heavy": 30.0, "light": 10.0}, seconds=4.0)
    assert counters.of("heavy") == pytest.approx(1.5)
    assert counters.of("light") == pytest.approx(1.0)
    assert counters.expected("heavy", 10.0) == pytest.approx(0.5)
    assert counters.expected("light", 10.0) == pytest.approx(1.0)


def test_cost_stands_for_seconds_until_a_rate_is_known() -> None:
    counters = VirtualCounters()
    assert counters.expected("a", 7.0) == 7.0
    counters.charge({"a": 7.0}, seconds=0.0)
    assert counters.of("a") == 7.0
    counters.charge({"a": 7.0}, seconds=0.5)
    assert counters.of("a") == 7.5


def test_what_costs_nothing_is_charged_too() -> None:
    counters = VirtualCounters()
    counters.charge({"free": 0.0, "paying": 10.0}, seconds=10.0)
    assert 0 < counters.of("free") < 0.01
    counters.charge({"free": 0.0}, seconds=10.0)
    assert counters.of("free") > 10.0


def test_nobody_has_credit_from_a_time_when_they_wanted_nothing() -> None:
    counters = VirtualCounters()
    for _ in range(10):
        counters.begin(["busy"])
        counters.charge({"busy": 1.0}, seconds=1.0)
    counters.begin(["busy", "newcomer"])
    assert counters.of("newcomer") == pytest.approx(9.0)  # where the last choice began: a batch behind, at most


def test_who_had_an_idle_device_owes_nothing_for_that() -> None:
    scheduler: OneShotScheduler[str] = OneShotScheduler(BatchLimits(1), ROOM)
    scheduler.add(entry("alone", "a", cost=100.0))
    batch(scheduler)
    for number in range(3):
        scheduler.add(entry(f"a{number}", "a", arrival=0.0))
        scheduler.add(entry(f"b{number}", "b", arrival=1.0))
    assert [batch(scheduler, 1.0)[0][0] for _ in range(6)] == ["a", "b"] * 3


def test_a_batch_is_shared_between_those_who_wait() -> None:
    scheduler: OneShotScheduler[str] = OneShotScheduler(BatchLimits(8), ROOM)
    flood(scheduler, "a", 256)
    flood(scheduler, "b", 4)
    assert sorted(batch(scheduler)) == ["a0", "a1", "a2", "a3", "b0", "b1", "b2", "b3"]
    assert len(batch(scheduler)) == 8  # what nobody else wants is theirs who want it


def test_a_newcomer_is_in_the_next_batch_whatever_waits() -> None:
    scheduler: OneShotScheduler[str] = OneShotScheduler(BatchLimits(16), ROOM)
    flood(scheduler, "a", 256)
    for _ in range(3):
        batch(scheduler)
    scheduler.add(entry("b", "b", priority=9, arrival=1.0))
    assert "b" in batch(scheduler, 1.0)


def test_anothers_priority_and_deadlines_push_nobody_back() -> None:
    scheduler: OneShotScheduler[str] = OneShotScheduler(BatchLimits(1), ROOM)
    for number in range(20):
        scheduler.add(entry(f"a{number}", "a", priority=-9, deadline=5.0))
        scheduler.add(entry(f"b{number}", "b", priority=9))
    first = [batch(scheduler)[0][0] for _ in range(20)]
    assert Counter(first) == {"a": 10, "b": 10}


def test_within_a_tenant_priority_goes_first_as_ever() -> None:
    scheduler: OneShotScheduler[str] = OneShotScheduler(BatchLimits(1), ROOM)
    for number, priority in enumerate([0, 1, -1]):
        scheduler.add(entry(f"a{number}", "a", priority=priority))
        scheduler.add(entry(f"b{number}", "b", priority=priority))
    assert "".join(batch(scheduler)[0] for _ in range(6)) in ("a2b2a0b0a1b1", "b2a2b0a0b1a1")


def test_cost_and_not_count_is_shared() -> None:
    scheduler: OneShotScheduler[str] = OneShotScheduler(BatchLimits(1), ROOM)
    flood(scheduler, "a", 100, cost=8.0)
    flood(scheduler, "b", 100, cost=1.0)
    served = Counter(batch(scheduler)[0][0] for _ in range(90))
    assert served["b"] == pytest.approx(8 * served["a"], abs=8)


def test_who_comes_along_in_anothers_batches_does_not_get_far_ahead() -> None:
    """Every one of b's images has a size of its own but shares it with many of a's: alone, each of b's would be a batch."""
    scheduler: OneShotScheduler[str] = OneShotScheduler(BatchLimits(8), ROOM)
    for number in range(40):
        scheduler.add(entry(f"b{number}", "b", f"size {number}"))
        for other in range(20):
            scheduler.add(entry(f"a{number}.{other}", "a", f"size {number}"))
    served: Counter[str] = Counter()
    for _ in range(40):
        served.update(one[0] for one in batch(scheduler))
        assert abs(served["a"] - served["b"]) <= 2 * 8


def test_one_large_request_does_not_make_its_tenants_others_wait_for_all_of_it() -> None:
    scheduler: OneShotScheduler[str] = OneShotScheduler(BatchLimits(16), ROOM)
    for number in range(256):
        scheduler.add(entry(f"large{number}", "t", request="large", deadline=60.0))
    batch(scheduler, 0.0)  # 16 seconds
    scheduler.add(entry("single", "t", request="single", arrival=16.0, deadline=76.0))
    assert "single" in batch(scheduler, 16.0)


def test_what_is_left_of_a_large_request_ages_from_its_last_turn_and_starves_no_one() -> None:
    """One at a time, each taking longer than it takes to age; deadlines are as clients' are, the large request's first."""
    scheduler: OneShotScheduler[str] = OneShotScheduler(BatchLimits(1), ROOM)
    for number in range(40):
        scheduler.add(entry(f"large{number}", "t", cost=3.0, request="large", deadline=600.0))
    waited: list[int] = []
    since: dict[str, int] = {}
    for turn in range(30):
        now = 3.0 * turn
        if turn % 3 == 1:
            since[f"single{turn}"] = turn
            scheduler.add(entry(f"single{turn}", "t", cost=3.0, request=f"r{turn}", arrival=now, deadline=now + 600.0))
        (ran,) = batch(scheduler, now)
        if ran in since:
            waited.append(turn - since.pop(ran))
    assert max(waited) <= 1
    assert len(waited) >= 9


def test_a_flood_of_its_tenants_other_requests_starves_no_large_one() -> None:
    """Twice as many come as can run: each piece waits for no more than a full line."""
    scheduler: OneShotScheduler[str] = OneShotScheduler(BatchLimits(1), QueueLimits(20))
    for number in range(10):
        scheduler.add(entry(f"large{number}", "t", request="large"))
    ran: list[str] = []
    for turn in range(10 * 24):
        for number in range(2):
            with suppress(QueueFull):
                single = f"{turn}.{number}"
                scheduler.add(entry(single, "t", request=single, arrival=float(turn), deadline=turn + 99.0))
        ran += batch(scheduler, float(turn))
    assert [one for one in ran if one.startswith("large")] == [f"large{number}" for number in range(10)]


def test_nothing_that_comes_later_overtakes_the_only_one_left_while_that_is_prepared() -> None:
    scheduler: OneShotScheduler[str] = OneShotScheduler(BatchLimits(1), ROOM)
    for number in range(3):
        scheduler.add(entry(f"large{number}", "t", request="large"))
    batch(scheduler)
    batch(scheduler)
    scheduler.add(Entry("single", "single", arrival=2.0, ready=False, tenant="t", request="single"))
    batch(scheduler, 2.0)
    assert scheduler.waiting.ready("single", None, 1.5)
    scheduler.add(entry("later", "t", key="k", request="later", arrival=2.1))
    assert batch(scheduler, 2.2) == ["single"]


def test_two_large_requests_of_a_tenant_share_what_it_gets() -> None:
    scheduler: OneShotScheduler[str] = OneShotScheduler(BatchLimits(16), ROOM)
    for request in ("x", "y"):
        for number in range(64):
            scheduler.add(entry(f"{request}{number}", "t", request=request))
    served = Counter(one[0] for number in range(6) for one in batch(scheduler, 16.0 * number))
    assert served == {"x": 48, "y": 48}


def test_what_a_second_request_joins_waits_for_no_pieces_of_the_first() -> None:
    scheduler: OneShotScheduler[str] = OneShotScheduler(BatchLimits(1), ROOM)
    for number in range(9):
        scheduler.add(entry(f"x{number}", "t", request="x", cost=5.0))
    batch(scheduler)
    scheduler.amend("x8", 0, math.inf)
    assert batch(scheduler, 5.0) == ["x8"]


def test_slots_are_shared_between_those_who_wait_for_them() -> None:
    scheduler: IterativeScheduler[str] = IterativeScheduler(BatchLimits(4), ROOM)
    flood(scheduler, "a", 10)
    flood(scheduler, "b", 10)
    assert Counter(name[0] for name in start_all(scheduler)) == {"a": 2, "b": 2}


def test_a_slot_goes_to_whoever_has_had_least_counted_in_steps() -> None:
    """Answers' lengths are unknown: what is long is paid for as it is made."""
    scheduler: IterativeScheduler[str] = IterativeScheduler(BatchLimits(2), ROOM)
    flood(scheduler, "long", 4)
    flood(scheduler, "short", 100)
    steps: Counter[str] = Counter()
    left: dict[str, int] = {}
    for _ in range(200):
        for name in start_all(scheduler):
            left[name] = 50 if name.startswith("long") else 5
        chosen = step(scheduler, done=[name for name in left if left[name] == 1])
        for name in chosen:
            steps[name.rstrip("0123456789")] += 1
            left[name] -= 1
        left = {name: count for name, count in left.items() if count}
        if steps["long"] == 200:
            break
    assert abs(steps["long"] - steps["short"]) <= 2 * 50, "more than what rows that run already will take"


def test_a_tenant_with_many_keys_leads_no_more_steps_than_one_with_one() -> None:
    scheduler: IterativeScheduler[str] = IterativeScheduler(BatchLimits(16), ROOM)
    for number in range(8):
        scheduler.add(entry(f"a{number}", "a", f"size {number}", priority=-1))
    scheduler.add(entry("b", "b", "another", priority=1))
    assert len(start_all(scheduler)) == 9
    steps = Counter(name[0] for _ in range(40) for name in step(scheduler))
    assert abs(steps["a"] - steps["b"]) <= 1


def test_a_tenant_with_all_the_rows_makes_way_for_one_with_none() -> None:
    scheduler: IterativeScheduler[str] = IterativeScheduler(BatchLimits(4), ROOM)
    flood(scheduler, "a", 10)
    start_all(scheduler)
    step(scheduler)
    assert scheduler.preempt(0.0) is None
    for tenant in ("b", "c"):
        for number in range(3):
            scheduler.add(entry(f"{tenant}{number}", tenant, priority=9, arrival=1.0))
    taken = []
    while (row := scheduler.preempt(1.0)) is not None:
        taken.append(row.tenant)
        started = scheduler.next_to_start(1.0)
        assert started is not None
        assert started.tenant in "bc"
        assert scheduler.start(started.id, Share("k", 1.0))
        step(scheduler)
    assert taken == ["a", "a"]
    assert Counter(each.tenant for each in scheduler.running()) == {"a": 2, "b": 1, "c": 1}
    assert scheduler.num_yielded == 2


def test_a_high_priority_takes_no_row_of_another_tenant_that_has_no_more() -> None:
    scheduler: IterativeScheduler[str] = IterativeScheduler(BatchLimits(2), ROOM)
    scheduler.add(entry("patient", "a", priority=9))
    scheduler.add(entry("b0", "b"))
    start_all(scheduler)
    step(scheduler)
    scheduler.add(entry("urgent", "b", priority=-9, arrival=1.0))
    row = scheduler.preempt(1.0)
    assert row is not None
    assert row.id == "b0"


def test_a_row_makes_way_for_others_a_bounded_number_of_times_too() -> None:
    scheduler: IterativeScheduler[str] = IterativeScheduler(BatchLimits(2), ROOM)
    flood(scheduler, "a", 2)
    start_all(scheduler)
    for number in range(20):
        step(scheduler)
        scheduler.add(entry(f"b{number}", "b", arrival=number))
        if scheduler.preempt(number) is None:
            assert number == 2 * MAX_PREEMPTIONS
            return
        assert f"b{number}" in start_all(scheduler, number)
        step(scheduler, done=[f"b{number}"])
        start_all(scheduler, number)
    raise AssertionError("it would go on for ever")


def test_memory_that_runs_out_takes_a_row_of_whoever_has_most() -> None:
    scheduler: IterativeScheduler[str] = IterativeScheduler(BatchLimits(4), ROOM)
    flood(scheduler, "a", 3)
    scheduler.add(entry("b", "b", priority=9))
    start_all(scheduler)
    step(scheduler)
    scheduler.bound.ran_out(4, 4.0)
    assert [each.tenant for each in iter(scheduler.take_excess, None)] == ["a", "a"]


def test_of_what_a_step_did_only_in_part_that_part_is_charged() -> None:
    """Prompts that share a step's tokens: one had them all."""
    scheduler: IterativeScheduler[str] = IterativeScheduler(BatchLimits(2), ROOM)
    for number in range(3):
        for tenant in "ab":
            scheduler.add(entry(f"{tenant}{number}", tenant, cost=8.0))
    assert start_all(scheduler) == ["a0", "b0"]
    chosen = scheduler.next_batch(0.0)
    scheduler.complete(ids(chosen.entries), 8.0, done=["a0", "b0"], shares={}, worked={"b0": 0.0})
    assert start_all(scheduler) == ["b1", "a1"], "it has had less"


def test_what_left_in_the_middle_of_a_step_has_had_it_all_the_same() -> None:
    scheduler: IterativeScheduler[str] = IterativeScheduler(BatchLimits(1), ROOM)
    flood(scheduler, "a", 9)
    flood(scheduler, "b", 9)
    seen = ""
    for _ in range(8):
        (name,) = start_all(scheduler)
        chosen = scheduler.next_batch(0.0)
        scheduler.cancel(name)  # before its step is done
        scheduler.complete(ids(chosen.entries), 1.0, done=(), shares={})
        seen += name[0]
    assert Counter(seen) == {"a": 4, "b": 4}
