"""The items that an engine has in flight, and what becomes of them: the last word on each is said once, counted and delivered in order.

Decides nothing about batches. Who may touch what: the scheduler, the counters and every `Work` are changed under `lock` only.
Answers are collected under it, and delivered without it, by `flush`. Knows no stage.
"""

import itertools
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from stages.contract.cost import shared_s
from stages.contract.engine import EngineIdentity, Load, Receiver
from stages.contract.errors import Cancelled, DeadlineExceeded, Overloaded, StageFailed, TriptychError
from stages.contract.item import Item
from stages.contract.recipe import Inputs, Recipe
from stages.contract.result import Result
from stages.contract.work import NO_WORK
from stages.contract.work import Work as Amount
from stages.engine.counters import Counters, Distributions
from stages.engine.delivery import Call, Deliver
from stages.engine.scheduling.preparing import PreparingLine
from stages.engine.scheduling.scheduler import Entry, Scheduler
from stages.engine.work import Clock, Work

MAX_MISSES = 2
"""How often an item may find inputs missing that its stage had said it doesn't need. From the second time on it is given all that it
lacks, whatever the stage may still hold."""


class InFlight:
    """All but `lock`, `now` and `flush` is called under `lock`, which is notified where the engine's thread may have work."""

    def __init__(self, identity: EngineIdentity, scheduler: Scheduler[Work], deliver: Deliver, clock: Clock) -> None:
        self.identity, self.scheduler = identity, scheduler
        self.lock = threading.Condition(threading.Lock())
        self.counters, self.distributions = Counters(), Distributions()
        self.leaving: list[Work] = []  # settled, and their rows still to be freed
        self._num_freeing = 0  # taken to be freed, which they may not be yet
        self.to_prepare: PreparingLine[Work] = PreparingLine(scheduler.waiting)
        self.unprepared: list[Work] = []  # there was too little memory: to be prepared once something has ended
        self._num_ended = self._num_ended_before = 0
        self._deliver, self._clock = deliver, clock
        self._live: dict[str, Work] = {}  # not settled
        self._arrived = NO_WORK
        self._outbox: list[Call] = []
        self._delivering = threading.RLock()  # keeps answers in order; a receiver that is called directly may cancel others
        self._serial = itertools.count()

    def __len__(self) -> int:
        return len(self._live)

    def now(self) -> float:
        return self._clock.monotonic()

    def accept(self, item: Item[Any], inputs: Inputs, receiver: Receiver, cost: float, others_s: Sequence[float] = ()) -> Work:
        """Queues it, to be prepared. `others_s`: what other stages have yet to do on the device. Raises `QueueFull`, `DeadlineExceeded`, or
        `ValueError` for an impossible cost."""
        now = self.now()
        work = Work(
            f"{item.id}#{next(self._serial)}", item, receiver, now, self._clock.to_monotonic(item.deadline), inputs, cost
        )
        if work.deadline <= now:
            self.counters.expired_total += 1
            raise self.too_late(work)
        foreseen = self.scheduler.speed.foreseen(cost, item.work)
        self._expect(work, foreseen, others_s, now)
        try:
            self.scheduler.add(
                Entry(
                    work.id,
                    work,
                    None,
                    cost,
                    item.priority,
                    work.deadline,
                    arrival=now,
                    ready=False,
                    tenant=item.tenant,
                    request=item.request,
                    expected=foreseen,
                )
            )
        except Overloaded:
            self.counters.rejected_total += 1
            raise
        self.counters.items_total += 1
        self.counters.continued_total += item.continues
        self._arrived += foreseen
        self._live[work.id] = work
        return work

    def _expect(self, work: Work, foreseen: Amount, others_s: Sequence[float], now: float) -> None:
        load = self.scheduler.load(now)
        work.found_nothing, work.is_heavy = not load.num_items, load.has_more_than_its_part(work.item.tenant)
        alone_s = load.finish_s(foreseen, work.item.priority, work.item.tenant)
        if alone_s is not None:
            work.expected_s = shared_s(alone_s, others_s)

    def _learn(self, work: Work) -> None:
        """From how long it took. What its deadline or whoever asked ended would have taken longer still, which tells something where it
        already took longer than was expected. A tenant with more than its part is late by what others bring meanwhile: for these nothing
        follows from that."""
        took_s = self.now() - work.submitted_at
        if work.expected_s is not None and not work.num_misses and (not work.failed or took_s > work.expected_s):
            self.scheduler.speed.took(
                work.expected_s,
                took_s,
                was_alone=work.found_nothing and work.ran_alone and not work.failed,
                is_typical=not (work.found_nothing or work.is_heavy or work.was_suspended or work.item.priority > 0),
            )

    def refuse_if_full(self, cost: float, tenant: str) -> None:
        """Raises `QueueFull` where one more of this cost, of this tenant, would not be accepted."""
        try:
            self.scheduler.waiting.refuse_if_full(cost, tenant)
        except Overloaded:
            self.counters.rejected_total += 1
            raise

    def amend(self, work: Work, priority: int, deadline: float) -> bool:
        work.deadline = max(work.deadline, self._clock.to_monotonic(deadline))
        self.scheduler.amend(work.id, priority, work.deadline)
        return not work.failed

    def too_late(self, work: Work) -> DeadlineExceeded:
        return work.too_late(self.identity.stage, self.now())

    def tell(self, work: Work, events: Sequence[object]) -> None:
        if not events or work.settled:
            return
        self._outbox.append(partial(work.receiver.events, events))
        now = self.now()
        if work.told_at is not None:
            self.distributions.between_events_seconds.observe(now - work.told_at)
        work.told_at = now

    def set_aside(self, work: Work, missing: Sequence[Recipe[Any]]) -> None:
        """It can't start without these: it counts for nothing until they are supplied."""
        if work.settled:
            return
        self.counters.missing_inputs_total += 1
        work.num_misses += 1
        if work.num_misses > MAX_MISSES:
            self.fail(
                work,
                StageFailed(
                    f"stage {self.identity.stage} asked for inputs {work.num_misses} times, and had said that it needs no more"
                ),
            )
            return
        if work.num_misses > 1:  # what else its stage holds may be gone by the time that these are there
            missing = work.inputs.lacks([*missing, *work.item.payload.needs()])
        work.prepared = None
        self.scheduler.waiting.set_aside(work.id)
        self._outbox.append(partial(work.receiver.missing, missing))

    def bring_back(self, work: Work, inputs: Inputs) -> bool:
        """What it missed is at hand: it is to be prepared again. False: it has ended, or misses nothing."""
        if work.settled or not self.scheduler.waiting.bring_back(work.id):
            return False
        work.inputs = work.inputs.with_more(inputs)
        return True

    def settle(self, work: Work, answer: Result | TriptychError | None) -> None:
        """The last word on an item: later ones are not said. It takes part in nothing any more; its row is to be freed."""
        if work.settled:
            return
        work.settled = True
        self._num_ended += 1
        self.lock.notify()
        del self._live[work.id]
        if isinstance(answer, TriptychError):
            work.failed = True
            self._outbox.append(partial(work.receiver.failed, answer))
            if isinstance(answer, DeadlineExceeded | Cancelled):
                self._learn(work)
        else:
            self._outbox.append(partial(work.receiver.done, answer, work.receipt(self.identity)))
            self.distributions.item_seconds.observe(self.now() - work.submitted_at)
            self._learn(work)
        self.scheduler.cancel(work.id)
        self.to_prepare.discard(work.id)
        self.let_go(work)

    def num_prepared_or_preparing(self) -> int:
        """Of the items, also of those that are leaving: who may hold memory of the device."""
        num_leaving = len(self.leaving) + self._num_freeing
        return len(self._live) + num_leaving - sum(not work.settled for work in self.unprepared)

    def has_left(self) -> bool:
        """Whether the engine's thread has something to free, or to have prepared in the place of what has ended."""
        return bool(self.leaving) or (bool(self.unprepared) and self._num_ended > self._num_ended_before)

    def take_unprepared(self) -> list[Work]:
        """To be prepared now. None, while nothing has ended since they were last tried."""
        if self._num_ended == self._num_ended_before:
            return []
        self._num_ended_before = self._num_ended
        works, self.unprepared = self.unprepared, []
        return [work for work in works if not work.settled]

    def take_leaving(self) -> list[Any]:
        """The rows that are to be freed now; `freed` once they are."""
        leaving, self.leaving = self.leaving, []
        self._num_freeing = len(leaving)
        for work in leaving:
            work.prepared = None  # it may hold memory of the device
        return [work.take_row() for work in leaving]

    def freed(self) -> None:
        """What was taken is free."""
        self._num_ended += self._num_freeing
        self._num_freeing = 0

    def let_go(self, work: Work) -> None:
        """Its row, where it has one, is to be freed."""
        if work.has_row:
            work.has_row = False
            self.leaving.append(work)

    def fail(self, work: Work, error: TriptychError) -> None:
        if work.settled:
            return
        if isinstance(error, Overloaded):
            self.counters.rejected_total += 1
        else:
            self.counters.failed_total += 1
        self.settle(work, error)

    def expire(self, works: Iterable[Work]) -> None:
        for work in works:
            if not work.settled:
                self.counters.expired_total += 1
                self.settle(work, self.too_late(work))

    def settle_everything(self, error: TriptychError) -> None:
        for work in list(self._live.values()):
            self.settle(work, error.for_request())

    def count_run(self, works: Sequence[Work], began: float, seconds: float) -> None:
        """These were on the device together, in a batch or a step that began at `began`."""
        self.counters.batches_total += 1
        self.counters.batch_items_total += len(works)
        self.counters.device_seconds_total += seconds
        self.distributions.step_seconds.observe(seconds)
        self.distributions.batch_size.observe(len(works))
        for work in works:
            if not work.steps:
                started_at = began if work.started_at is None else work.started_at
                self.distributions.queue_seconds.observe(max(0.0, started_at - work.submitted_at))
            work.count_run(began, seconds, len(works))

    def load(self) -> Load:
        num_arrived = self.counters.items_total
        load = self.scheduler.load(self.now())
        return replace(load, arrived=self._arrived, num_arrived=num_arrived, num_left=num_arrived - len(self))

    def metrics(self) -> dict[str, float]:
        load, bound = self.load(), self.scheduler.bound.limits
        return {
            "queued": float(load.queued),
            "queued_tenants": float(self.scheduler.waiting.num_tenants),
            "preparing": float(self.scheduler.waiting.num_preparing),
            "running": float(load.running),
            "outstanding_amount": load.outstanding.amount,
            "outstanding_steps": load.outstanding.steps,
            "outstanding_seconds": load.seconds_ahead,
            "batch_bound_items": float(bound.max_items),
            "batch_bound_cost": bound.max_cost,
            "let_in_beyond_total": float(self.scheduler.waiting.num_let_in_beyond),
            "preempted_for_others_total": float(self.scheduler.num_yielded),
            **self.counters.as_metrics(),
            **self.scheduler.speed.metrics(),
        }

    def check_integrity(self) -> None:
        """Raises `RuntimeError` for a broken invariant."""
        self.scheduler.check_integrity()
        if any(entry.work.settled for entry in self.scheduler.waiting):
            raise RuntimeError("an item has its answer and still waits")
        if any(work.id not in self.scheduler.waiting for work in self.unprepared if not work.settled):
            raise RuntimeError("an item is to be prepared that doesn't wait")

    def flush(self) -> None:
        """Delivers what has been said, in order. Not under the lock."""
        with self._delivering:
            with self.lock:
                calls, self._outbox = self._outbox, []
            if calls:
                self._deliver(calls)
