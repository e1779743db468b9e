"""Whatever happens, in whatever order: the schedulers' promises, checked by machines that keep books of their own."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stages.contract.errors import QueueFull
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.stage import Share
from stages.engine.scheduling.memory_bound import MemoryBound
from stages.engine.scheduling.scheduler import (
    MAX_PREEMPTIONS,
    Entry,
    IterativeScheduler,
    OneShotScheduler,
    Scheduler,
)
from stages.engine.scheduling.urgency import makes_way
from tests.stages.engine.scheduling.loads import AGEING_S, LONGEST_ABSENCE, keys, limits

costs = st.sampled_from([0.0, 0.5, 1.0, 3.0, 8.0, 20.0])
priorities = st.integers(-2, 2)
times_left = st.one_of(st.just(math.inf), st.floats(-1, 20))
queues = st.builds(QueueLimits, st.integers(1, 12), st.sampled_from([5.0, 40.0, math.inf]))


def rank(entry: Entry[str], now: float) -> tuple[float, float, float]:
    return entry.priority - math.floor((now - entry.arrival) / AGEING_S), entry.deadline, entry.arrival


class Machine(RuleBasedStateMachine):
    """What both machines share: a clock, and a book of where every id is."""

    scheduler: Any
    batch_limits: BatchLimits
    queue_limits: QueueLimits

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.serial = 0
        self.waiting: dict[str, Entry[str]] = {}
        self.aside: dict[str, Entry[str]] = {}
        self.fates: Counter[str] = Counter()

    def begin(self, scheduler: Scheduler[str], batch: BatchLimits, queue: QueueLimits) -> None:
        self.scheduler, self.batch_limits, self.queue_limits = scheduler, batch, queue

    @rule(seconds=st.floats(0.01, 5))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=keys, cost=costs, priority=priorities, left=times_left, ready=st.booleans())
    def add(self, key: str, cost: float, priority: int, left: float, ready: bool) -> None:
        self.serial += 1
        entry = Entry(f"{self.serial}", "", key, cost, priority, self.now + left, self.now, ready)
        if self.is_full(cost, priority):
            with pytest.raises(QueueFull) as refused:
                self.scheduler.add(entry)
            assert 1 <= (refused.value.retry_after_s or 0) < math.inf
        else:
            self.scheduler.add(entry)
            self.waiting[entry.id] = entry

    def is_full(self, cost: float, priority: int) -> bool:
        most = self.queue_limits.max_items
        return len(self.waiting) >= (max(1, most // 2) if priority > 0 else most) or self.is_too_costly(cost, priority)

    def is_too_costly(self, cost: float, priority: int) -> bool:
        waiting, most = math.fsum(entry.cost for entry in self.waiting.values()), self.queue_limits.max_cost
        return waiting > 0 and waiting + cost > (most / 2 if priority > 0 else most)

    @rule(data=st.data(), key=keys, cost=costs)
    @precondition(lambda self: any(not entry.ready for entry in self.waiting.values()))
    def prepared(self, data: st.DataObject, key: str, cost: float) -> None:
        one = data.draw(st.sampled_from(sorted(name for name, entry in self.waiting.items() if not entry.ready)))
        entry = self.waiting.pop(one)
        if cost > entry.cost and not entry.was_let_in and self.is_too_costly(cost, entry.priority):
            with pytest.raises(QueueFull):
                self.scheduler.waiting.ready(one, key, cost)
            self.fates[one] += 1
        else:
            assert self.scheduler.waiting.ready(one, key, cost)
            self.waiting[one] = replace(entry, batch_key=key, cost=cost, ready=True)

    @rule(data=st.data())
    @precondition(lambda self: any(entry.ready for entry in self.waiting.values()))
    def inputs_are_missing(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(sorted(name for name, entry in self.waiting.items() if entry.ready)))
        self.scheduler.waiting.set_aside(one)
        self.aside[one] = self.waiting.pop(one)

    @rule(data=st.data())
    @precondition(lambda self: self.aside)
    def inputs_are_supplied(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(sorted(self.aside)))
        assert self.scheduler.waiting.bring_back(one)
        self.waiting[one] = replace(self.aside.pop(one), ready=False, was_let_in=True)

    @rule(data=st.data())
    @precondition(lambda self: self.aside)
    def cancel_what_is_aside(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(sorted(self.aside)))
        assert self.scheduler.cancel(one) == self.aside.pop(one)
        assert not self.scheduler.waiting.bring_back(one)
        self.fates[one] += 1

    def expired(self, entry: Entry[str], *others: dict[str, Entry[str]]) -> None:
        line = next(line for line in (self.waiting, self.aside, *others) if entry.id in line)
        assert entry == line.pop(entry.id)
        assert entry.deadline <= self.now
        self.fates[entry.id] += 1

    @rule(data=st.data(), priority=priorities, left=times_left)
    @precondition(lambda self: self.waiting)
    def amend(self, data: st.DataObject, priority: int, left: float) -> None:
        one = data.draw(st.sampled_from(sorted(self.waiting)))
        self.scheduler.amend(one, priority, self.now + left)
        self.waiting[one] = next(entry for entry in self.scheduler.waiting if entry.id == one)

    @rule(data=st.data())
    @precondition(lambda self: self.waiting)
    def cancel_what_waits(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.scheduler.cancel(one) == self.waiting.pop(one)
        assert self.scheduler.cancel(one) is None
        self.fates[one] += 1

    @invariant()
    def promises_hold(self) -> None:
        self.scheduler.check_integrity()
        assert {entry.id for entry in self.scheduler.waiting} == set(self.waiting)
        assert all(count == 1 for count in self.fates.values())
        load = self.scheduler.load()
        assert load.queued == len(self.waiting)
        assert 0 <= load.seconds_ahead < math.inf

    def fits(self, entries: list[Any]) -> bool:
        total = sum(entry.cost for entry in entries)
        same_key = len({entry.batch_key for entry in entries}) <= 1
        within_cost = len(entries) <= 1 or total <= self.scheduler.bound.limits.max_cost
        return same_key and within_cost and len(entries) <= self.scheduler.bound.limits.max_items


class Batches(Machine):
    """The one-shot scheduler with a device that is sometimes busy."""

    def __init__(self) -> None:
        super().__init__()
        self.on_device: list[Entry[str]] = []

    @initialize(batch=limits, queue=queues)
    def make(self, batch: BatchLimits, queue: QueueLimits) -> None:
        self.begin(OneShotScheduler[str](batch, queue, ageing_s=AGEING_S), batch, queue)

    @rule()
    @precondition(lambda self: not self.on_device)
    def device_is_free(self) -> None:
        batch = self.scheduler.next_batch(self.now)
        for entry in batch.expired:
            self.expired(entry)
        could_run = [entry for entry in self.waiting.values() if entry.ready]
        self.on_device = [self.waiting.pop(entry.id) for entry in batch.entries]
        assert list(batch.entries) == self.on_device
        assert bool(self.on_device) == bool(could_run)
        self.check_batch(self.on_device)

    def check_batch(self, chosen: list[Entry[str]]) -> None:
        assert self.fits(chosen)
        assert all(entry.deadline > self.now for entry in chosen)
        assert [rank(entry, self.now) for entry in chosen] == sorted(rank(entry, self.now) for entry in chosen)
        for left in (entry for entry in self.waiting.values() if chosen and entry.ready):
            assert rank(chosen[0], self.now) <= rank(left, self.now)
            assert not self.fits([*chosen, left]), "it could have come along"
            advantage = max(0, left.priority - chosen[0].priority)
            assert chosen[0].arrival <= left.arrival + (advantage + 1) * AGEING_S, "it arrived too late to go first"

    @rule(data=st.data())
    @precondition(lambda self: self.on_device)
    def cancel_what_runs(self, data: st.DataObject) -> None:
        assert self.scheduler.cancel(data.draw(st.sampled_from([entry.id for entry in self.on_device]))) is None

    @rule(seconds=st.floats(0, 3))
    @precondition(lambda self: self.on_device)
    def device_is_done(self, seconds: float) -> None:
        self.now += seconds
        self.scheduler.complete([entry.id for entry in self.on_device], seconds)
        self.fates.update(entry.id for entry in self.on_device)
        self.on_device = []

    @invariant()
    def what_runs_is_what_was_chosen(self) -> None:
        assert self.scheduler.running() == self.on_device


class Steps(Machine):
    """The iterative scheduler with a stage of few slots, whose rows change their key and cost as they like."""

    SLOTS = 5

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, Entry[str]] = {}
        self.shares: dict[str, Share] = {}
        self.sat_out: dict[str, int] = {}
        self.rows_that_are_all: float = math.inf
        self.alone = ""

    @initialize(batch=limits, queue=queues)
    def make(self, batch: BatchLimits, queue: QueueLimits) -> None:
        scheduler = IterativeScheduler[str](batch, queue, ageing_s=AGEING_S)
        scheduler.bound = MemoryBound(batch, patience=2)
        self.begin(scheduler, batch, queue)

    def could_start(self, entry: Entry[str]) -> bool:
        beside = [self.shares[row.id].cost for row in self.rows.values() if row.batch_key == entry.batch_key]
        bound = self.scheduler.bound.limits
        fits_cost = not beside or math.fsum(beside) + entry.cost <= bound.max_cost
        return fits_cost and self.alone not in self.rows and len(self.rows) < min(bound.max_items, self.rows_that_are_all)

    def goes_before(self, other: Entry[str], entry: Entry[str]) -> bool:
        return other is not entry and rank(other, self.now) <= rank(entry, self.now)

    @rule(key=keys, cost=costs)
    @precondition(lambda self: len(self.rows) < self.SLOTS)
    def start(self, key: str, cost: float) -> None:
        first = self.scheduler.next_to_start(self.now)
        ready = [entry for entry in self.waiting.values() if entry.ready]
        before = [entry for entry in ready if first is None or rank(entry, self.now) < rank(first, self.now)]
        for entry in before:
            ahead = [other for other in before if other.batch_key == entry.batch_key and self.goes_before(other, entry)]
            assert ahead or not self.could_start(entry), "it was let wait without need"
        if first is None:
            return
        assert self.could_start(first)
        assert all(entry.batch_key != first.batch_key for entry in before), "one of its key was let past"
        self.rows[first.id] = self.waiting.pop(first.id)
        self.shares[first.id] = Share(key, cost)
        self.sat_out[first.id] = 0
        self.rows_that_are_all = math.inf
        assert self.scheduler.start(first.id, self.shares[first.id])

    @rule(data=st.data(), priority=priorities, left=times_left)
    @precondition(lambda self: self.rows)
    def amend_a_row(self, data: st.DataObject, priority: int, left: float) -> None:
        one = data.draw(st.sampled_from(sorted(self.rows)))
        self.scheduler.amend(one, priority, self.now + left)
        before = self.rows[one]
        urgent, late = min(priority, before.priority), max(self.now + left, before.deadline)
        self.rows[one] = replace(before, priority=urgent, deadline=late)
        assert self.rows[one] in self.scheduler.running()

    @rule()
    @precondition(lambda self: self.rows)
    def a_start_runs_out_of_memory(self) -> None:
        self.scheduler.hold()
        self.rows_that_are_all = len(self.rows)

    @rule()
    @precondition(lambda self: self.rows)
    def preempt(self) -> None:
        newcomer = self.scheduler.waiting.first(self.now)
        patient = self.scheduler.preempt(self.now)
        if patient is None:
            return
        assert newcomer is not None
        row = self.rows.pop(patient.id)
        assert row.num_preempted < MAX_PREEMPTIONS
        is_turn = row.priority == newcomer.priority and newcomer.arrival < row.arrival
        assert row.priority > newcomer.priority or is_turn
        assert row.priority > newcomer.priority or row.deadline - self.now > 2 * (newcomer.deadline - self.now)
        others = [
            entry
            for entry in self.rows.values()
            if entry.num_preempted < MAX_PREEMPTIONS
            and entry.batch_key == row.batch_key
            and makes_way(entry, newcomer, self.now)
        ]
        assert all((row.priority, row.deadline) >= (entry.priority, entry.deadline) for entry in others)
        again = next(entry for entry in self.scheduler.waiting if entry.id == row.id)
        assert (again.num_preempted, again.arrival) == (row.num_preempted + 1, self.now)
        self.waiting[again.id] = again
        if newcomer.deadline > self.now:
            assert self.scheduler.waiting.first(self.now) == newcomer, "it made way, and then went first itself"

    @rule(data=st.data(), seconds=st.floats(0, 1), key=keys, cost=costs)
    def step(self, data: st.DataObject, seconds: float, key: str, cost: float) -> None:
        batch = self.scheduler.next_batch(self.now)
        for entry in batch.expired:
            self.expired(entry, self.rows)
        left = [*self.waiting.values(), *self.aside.values(), *self.rows.values()]
        assert all(entry.deadline > self.now for entry in left)
        chosen = [entry.id for entry in batch.entries]
        assert bool(chosen) == bool(self.rows)
        assert self.fits([self.shares[one] for one in chosen])
        for other in set(self.rows) - set(chosen):
            assert not self.fits([*(self.shares[one] for one in chosen), self.shares[other]]), "it could have come along"
            self.sat_out[other] += 1
            assert self.sat_out[other] <= LONGEST_ABSENCE * self.SLOTS
        self.now += seconds
        cost = sum(self.shares[one].cost for one in chosen)
        assert batch.cost == pytest.approx(cost)
        fits: bool = data.draw(st.booleans())
        if chosen and not fits:
            self.step_runs_out_of_memory(chosen, cost, seconds)
        else:
            self.scheduler.bound.went_well(cost)
            self.end_step(data, chosen, seconds, Share(key, cost))

    def step_runs_out_of_memory(self, chosen: list[str], cost: float, seconds: float) -> None:
        before = self.scheduler.bound.limits
        if len(chosen) > 1:
            self.scheduler.bound.ran_out(len(chosen), cost)
        else:
            self.scheduler.isolate(chosen[0])
            self.alone = chosen[0]
        self.scheduler.complete(chosen, seconds, done=(), shares={})
        after = self.scheduler.bound.limits
        if len(chosen) > 1:
            assert after.max_items < len(chosen) or after.max_cost < cost, "the same would be tried again"
        assert (after.max_items, after.max_cost) <= (before.max_items, before.max_cost)
        while (entry := self.scheduler.take_excess()) is not None:
            row = self.rows.pop(entry.id)
            again = next(waits for waits in self.scheduler.waiting if waits.id == row.id)
            assert (again.arrival, again.num_preempted) == (row.arrival, row.num_preempted)
            self.waiting[again.id] = again
        assert 1 <= len(self.rows) <= max(1, after.max_items)
        assert self.alone not in self.rows or list(self.rows) == [self.alone]
        for key in {row.batch_key for row in self.rows.values()}:
            shared = [self.shares[row.id].cost for row in self.rows.values() if row.batch_key == key]
            assert len(shared) == 1 or sum(shared) <= after.max_cost

    def end_step(self, data: st.DataObject, chosen: list[str], seconds: float, share: Share) -> None:
        subset = st.lists(st.sampled_from(chosen), unique=True) if chosen else st.just([])
        cancelled, done, changed = data.draw(subset), data.draw(subset), data.draw(subset)
        for one in cancelled:  # in the middle of the step
            assert self.scheduler.cancel(one) == self.rows.pop(one)
            self.fates[one] += 1
        self.scheduler.complete(chosen, seconds, done=done, shares=dict.fromkeys(changed, share))
        for one in set(done) - set(cancelled):
            del self.rows[one]
            self.fates[one] += 1
        self.shares.update(dict.fromkeys(changed, share))
        self.sat_out.update(dict.fromkeys(chosen, 0))

    @rule(data=st.data())
    @precondition(lambda self: self.rows)
    def cancel_a_row(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(sorted(self.rows)))
        assert self.scheduler.cancel(one) == self.rows.pop(one)
        self.fates[one] += 1

    @invariant()
    def rows_are_what_was_started(self) -> None:
        assert {entry.id for entry in self.scheduler.running()} == set(self.rows)
        assert self.scheduler.has_work() == bool(self.rows or any(entry.ready for entry in self.waiting.values()))


Batches.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
Steps.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestBatches = Batches.TestCase
TestSteps = Steps.TestCase
