"""What a device runs next. Pure: no clock, no threads, no model; time comes in as `now`, a decision goes out as a value.

One idea, in two forms. What waits is ranked (`stages/engine/scheduling/waiting.py`); the best-ranked entry leads, and those that
may share a batch with it come along, in rank order, as far as the batch's bounds allow. The leader always runs, even alone and over the
cost bound. A batch is formed only when it is asked for, that is when the device is free: it stays open for as long as the
device is busy, and no timer is needed.

Of several tenants, whoever has had least of the device goes first (`stages/engine/scheduling/fairness.py`), at every choice there is:
who is in a batch, who starts, whose row leads a step, who makes way. Rank, priority, deadline and weight count among one tenant's own.

- `OneShotScheduler`: a batch is taken from what waits, runs, and is gone.
- `IterativeScheduler`: what waits is started when there is room: fewer rows than one step may hold, work that still fits the
  steps of its key (more of either would make everyone later, and nobody sooner), and room in the stage. What is too much for
  any step starts once nothing of its key runs. Where it does not fit, others of its key are not let past; of other keys they
  are. Its rows then take part in steps until they are done. Where there is no room, a row that `makes_way` lets go, or one of a
  tenant with at least two rows more than the newcomer's; it waits again, and later goes on where it stopped. A row makes way at
  most `MAX_PREEMPTIONS` times. One step has one batch key, that of the row that has been due longest of the tenant whose turn it
  is. A row is due again 1 / weight after its last step, in a time of its tenant's own that only steps move (stride scheduling:
  Waldspurger and Weihl, 1995). So a tenant's keys alternate by weight, and while there is one tenant a row sits out at most
  `(2 * MAX_WEIGHT / MIN_WEIGHT + 1) * rows` steps, whatever arrives.

Where the device runs out of memory, `bound` is lowered (`stages/engine/scheduling/memory_bound.py`), and rows beyond it wait again.

What waits may still be being prepared, or be set aside until its inputs are at hand (`stages/engine/scheduling/waiting.py`): neither runs.

Doesn't know what the work is, nor how to run it.
"""

import math
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.stage import Share
from stages.contract.work import Work
from stages.engine.scheduling.base import Batch, Scheduler, check_batch
from stages.engine.scheduling.fairness import fill_fairly
from stages.engine.scheduling.learned_speed import LearnedSpeed
from stages.engine.scheduling.row import Row
from stages.engine.scheduling.urgency import MAX_WEIGHT, MIN_WEIGHT, makes_way, weight
from stages.engine.scheduling.waiting import Entry

__all__ = ["Batch", "BatchLimits", "Entry", "IterativeScheduler", "OneShotScheduler", "QueueLimits", "Scheduler"]

W = TypeVar("W")

MAX_PREEMPTIONS = 3
LEAST_LEFT = 0.1  # of a batch that takes longer than was expected
NOTHING: Mapping[str, float] = MappingProxyType({})


class OneShotScheduler(Scheduler[W]):
    """Batches of items that run once."""

    def __init__(
        self,
        batch: BatchLimits,
        queue: QueueLimits,
        *,
        name: str = "stage",
        ageing_s: float = 2.0,
        speed: LearnedSpeed | None = None,
    ) -> None:
        super().__init__(batch, queue, speed or LearnedSpeed(is_one_shot=True), name=name, ageing_s=ageing_s)
        self._running: dict[str, Entry[W]] = {}
        self._latest: Sequence[Entry[W]] = ()  # batch
        self._began = 0.0

    def running(self) -> Sequence[Entry[W]]:
        return list(self._running.values())

    def is_running(self, entry_id: str) -> bool:
        return entry_id in self._running

    def _left_of_running(self, now: float | None) -> Sequence[tuple[str, Work]]:
        if not self._running:
            return ()
        cost, speed = sum(entry.cost for entry in self._running.values()), self.speed.of(self.bound.limits)
        took = 0.5 if now is None or speed is None else (now - self._began) / speed.step_s(cost)
        left = max(LEAST_LEFT, 1 - took)
        return [(entry.tenant, Work(entry.cost * left, left)) for entry in self._running.values()]

    def has_work(self) -> bool:
        return self.waiting.has_ready()

    def cancel(self, entry_id: str) -> Entry[W] | None:
        return self.waiting.take(entry_id)

    def next_batch(self, now: float) -> Batch[W]:
        expired = self.waiting.take_expired(now)
        self.waiting.have_turn(self._latest, now)
        lines = self.waiting.by_tenant(now)
        self._counters.begin(lines)
        chosen = fill_fairly(lines, self.bound.limits, self._counters) if lines else []
        for entry in chosen:
            self.waiting.begin(entry.id, now)
            self._running[entry.id] = entry
        self._latest, self._began = chosen, now
        self._use(chosen)
        return Batch(chosen, expired, sum(entry.cost for entry in chosen))

    def complete(self, ids: Collection[str], seconds: float, *, went_well: bool = True) -> None:
        """These have run, well (at once, and all of them) or not, and kept the device busy for `seconds`. Ids that don't run are passed
        over."""
        ended = [self._running.pop(entry_id) for entry_id in ids if entry_id in self._running]
        if went_well:
            self.speed.observe(sum(entry.cost for entry in ended), seconds)
        self._charge(seconds)
        if not self.waiting and not self._running:
            self._counters.rest()

    def clear(self) -> list[Entry[W]]:
        everything = [*self.waiting.take_all(), *self._running.values()]
        self._running.clear()
        return everything

    def check_integrity(self) -> None:
        super().check_integrity()
        check_batch(self.running(), self._limits)


class IterativeScheduler(Scheduler[W]):
    """Steps of rows that stay until they are done: `add`, `start` when there is room, then `next_batch` and `complete`."""

    def __init__(
        self,
        batch: BatchLimits,
        queue: QueueLimits,
        *,
        name: str = "stage",
        ageing_s: float = 2.0,
        speed: LearnedSpeed | None = None,
    ) -> None:
        super().__init__(batch, queue, speed or LearnedSpeed(), name=name, ageing_s=ageing_s)
        self._rows: dict[str, Row[W]] = {}
        self._times: dict[str, float] = {}  # of each tenant with rows: when its first one was due at the last step
        self._asked_at = 0.0  # who starts
        self._max_rows = math.inf  # beside so many, the last one that tried could not start
        self._alone: str | None = None  # while it runs, nothing else does
        self._in_step: frozenset[str] = frozenset()

    def running(self) -> Sequence[Entry[W]]:
        return [row.entry for row in self._rows.values()]

    def has_rows(self) -> bool:
        return bool(self._rows)

    def is_running(self, entry_id: str) -> bool:
        return entry_id in self._rows

    def _left_of_running(self, now: float | None) -> Sequence[tuple[str, Work]]:
        return [(row.tenant, row.left) for row in self._rows.values()]

    def add(self, entry: Entry[W]) -> None:
        """Of which nobody knows how much it is, it is supposed to be as much as others were."""
        super().add(entry if entry.expected is not None else replace(entry, expected=self.speed.foreseen(entry.cost)))

    def has_work(self) -> bool:
        return bool(self._rows) or self.waiting.has_ready()

    def cancel(self, entry_id: str) -> Entry[W] | None:
        row = self._rows.pop(entry_id, None)
        return self.waiting.take(entry_id) if row is None else row.entry

    def amend(self, entry_id: str, priority: int, deadline: float) -> None:
        super().amend(entry_id, priority, deadline)
        if (row := self._rows.get(entry_id)) is not None:
            row.entry = row.entry.amended(priority, deadline)

    def expire(self, now: float) -> list[Entry[W]]:
        """Removes what is past its deadline, waiting or running, and returns it."""
        late = [entry for entry in self.running() if entry.deadline <= now]
        for entry in late:
            del self._rows[entry.id]
        return [*self.waiting.take_expired(now), *late]

    def next_to_start(self, now: float) -> Entry[W] | None:
        """Who starts next, if the stage has room for it. Whoever does not fit lets nobody of its own key past, so that it fits
        in the end."""
        self._asked_at = now
        rows = list(self._rows.values())
        if not self._has_place(rows):
            return None
        self.waiting.have_turn((row.entry for row in rows), now)
        passed: set[Hashable] = set()
        for line in self._in_turn(now):
            for entry in line:
                if entry.batch_key not in passed and self._fits_cost(entry, rows):
                    return entry
                passed.add(entry.batch_key)
        return None

    def _in_turn(self, now: float) -> Sequence[Sequence[Entry[W]]]:
        """What may start, by tenant: whoever has had least first. A row that has yet to be in a step counts by its cost: what has
        started last has had nothing else so far."""
        lines = self.waiting.by_tenant(now)
        if len(lines) < 2:
            return list(lines.values())
        self._counters.begin({*lines, *(row.tenant for row in self._rows.values())})
        had = {tenant: self._counters.of(tenant) for tenant in lines}
        for row in self._rows.values():
            if not row.is_charged and row.tenant in had:
                had[row.tenant] += self._counters.expected(row.tenant, row.cost)
        return [lines[tenant] for tenant in sorted(lines, key=lambda tenant: had[tenant])]

    def preempt(self, now: float) -> Entry[W] | None:
        """Takes out the row that can best wait, for the sake of the first in line, and lets it wait again. None: nobody need, or
        it would not help."""
        newcomer = self._first_in_turn(now)
        if newcomer is None or not self._rows:
            return None
        rows = list(self._rows.values())
        may_go = [row for row in self._that_make_way(newcomer, rows, now) if row.entry.num_preempted < MAX_PREEMPTIONS]
        if not self._fits_cost(newcomer, rows):
            may_go = [row for row in may_go if row.entry.batch_key == newcomer.batch_key]
        if not may_go or not self._fits(newcomer, [row for row in rows if row not in may_go]):
            return None
        patient = self._rows.pop(max(may_go, key=lambda row: row.patience).entry.id).waits_again()
        self.waiting.put_back(patient, now)
        self.num_yielded += patient.tenant != newcomer.tenant
        return patient

    def _first_in_turn(self, now: float) -> Entry[W] | None:
        if len(self.waiting.ready_tenants()) < 2:
            return self.waiting.first(now)
        return next((line[0] for line in self._in_turn(now)), None)

    def _that_make_way(self, newcomer: Entry[W], rows: Sequence[Row[W]], now: float) -> Sequence[Row[W]]:
        """Of others' rows those of whoever has most, and at least two more than the newcomer's tenant, so that it has no fewer
        afterwards and the two never take turns at it. Where nobody has, of its tenant's own those that `makes_way`."""
        num_rows = Counter(row.tenant for row in rows)
        most = max(num_rows, key=lambda tenant: num_rows[tenant])
        if num_rows[most] >= num_rows[newcomer.tenant] + 2:
            others = [row for row in rows if row.tenant == most and row.is_charged]
            if others:
                return others
        return [row for row in rows if row.tenant == newcomer.tenant and makes_way(row.entry, newcomer, now)]

    def hold(self) -> None:
        """Whoever was to start ran out of memory: nobody starts until one of the rows has left."""
        self._max_rows = max(1, len(self._rows))

    def isolate(self, entry_id: str) -> None:
        """The row did not fit beside others, even where they rested: for as long as it runs, it is to be the only one."""
        self._alone = entry_id

    def take_excess(self) -> Entry[W] | None:
        """Takes out a row that no longer fits under `bound`, or beside one that is to be alone: the one that can best wait, and it
        waits in its old place. None: all fit."""
        limits, rows = self.bound.limits, list(self._rows.values())
        if self._alone in self._rows and len(rows) > 1:
            rows = [row for row in rows if row.entry.id != self._alone]
        elif len(rows) <= limits.max_items:
            keys = {row.entry.batch_key for row in rows}
            shared = [[row for row in rows if row.entry.batch_key == key] for key in keys]
            over = [group for group in shared if len(group) > 1 and sum(row.cost for row in group) > limits.max_cost]
            if not over:
                return None
            rows = over[0]
        num_rows = Counter(row.tenant for row in rows)
        first = max(rows, key=lambda row: (num_rows[row.tenant], *row.patience))
        patient = self._rows.pop(first.entry.id).waits_again()
        self.waiting.give_back(patient)
        return patient

    def _fits(self, entry: Entry[W], beside: Sequence[Row[W]]) -> bool:
        """Whether it could take part in the steps of those rows."""
        return self._has_place(beside) and self._fits_cost(entry, beside)

    def _has_place(self, beside: Sequence[Row[W]]) -> bool:
        if any(row.entry.id == self._alone for row in beside):
            return False
        return len(beside) < min(self.bound.limits.max_items, self._max_rows)

    def _fits_cost(self, entry: Entry[W], beside: Sequence[Row[W]]) -> bool:
        costs = [row.cost for row in beside if row.entry.batch_key == entry.batch_key]
        return not costs or math.fsum(costs) + entry.cost <= self.bound.limits.max_cost

    def start(self, entry_id: str, share: Share) -> bool:
        """It has been started, and takes part in steps from now on. False: it has left meanwhile; the caller frees its row."""
        entry = self.waiting.begin(entry_id, self._asked_at)
        if entry is None:
            return False
        self._max_rows = math.inf
        due = self._times.setdefault(entry.tenant, 0.0) + 1 / MAX_WEIGHT
        row = self._rows[entry_id] = Row(entry, share.batch_key, share.cost, entry.tenant, due, entry.outstanding)
        row.shares(share)
        return True

    def next_batch(self, now: float) -> Batch[W]:
        """The rows of the next step, and what expired (waiting or running) and takes part in nothing any more."""
        expired = self.expire(now)
        lines = self._rows_by_tenant()
        self._counters.begin({*lines, *self.waiting.ready_tenants()})
        chosen = fill_fairly(lines, self.bound.limits, self._counters) if lines else []
        self._times = {tenant: rows[0].due for tenant, rows in lines.items()}
        for row in chosen:
            turn = 1 / weight(row.entry, now)
            # Who comes along before it is due pays for that later, but for no more than one turn.
            row.due = min(row.due, self._times[row.tenant] + turn) + turn
            row.is_charged = True
        self._in_step = frozenset(row.entry.id for row in chosen)
        self._use(chosen)
        return Batch([row.entry for row in chosen], expired, sum(row.cost for row in chosen))

    def _rows_by_tenant(self) -> dict[str, list[Row[W]]]:
        """Whoever is due first comes first. Sorting is stable and `_rows` is in order of starting: of rows that are due at once, the
        older goes first."""
        lines: dict[str, list[Row[W]]] = {}
        for row in sorted(self._rows.values(), key=lambda row: row.due):
            lines.setdefault(row.tenant, []).append(row)
        return lines

    def complete(
        self,
        ids: Collection[str],
        seconds: float,
        *,
        done: Collection[str],
        shares: Mapping[str, Share],
        worked: Mapping[str, float] = NOTHING,
        went_well: bool = True,
    ) -> float:
        """A step of these rows took `seconds`. Those in `done` (well or not) leave; `shares`: what others need of their next
        step, where it changed; `worked`: what was done of their cost, where that was not all; `went_well`: its time tells how fast the
        device is. Ids that left during the step are passed over. Returns how much was done in all.
        """
        did = 0.0
        for row in [self._rows[entry_id] for entry_id in ids if entry_id in self._rows]:
            if (work := worked.get(row.entry.id)) is not None and row.tenant in self._used:
                self._used[row.tenant] += work - row.cost
            work = row.cost if work is None else work
            did += work
            row.worked(work if went_well else 0.0)
            if row.entry.id in done:
                self._learn_from(self._rows.pop(row.entry.id))
            elif row.entry.id in shares:
                row.shares(shares[row.entry.id])
        self._in_step = frozenset()
        if went_well:
            self.speed.observe(did, seconds)
        self._charge(seconds)
        if not self.waiting and not self._rows:
            self._counters.rest()
        return did

    def _learn_from(self, row: Row[W]) -> None:
        """Who made way has a part of its work in other rows."""
        if not row.entry.num_preempted:
            self.speed.asked(row.entry.cost, row.did)

    def clear(self) -> list[Entry[W]]:
        everything = [*self.waiting.take_all(), *self.running()]
        self._rows.clear()
        return everything

    def check_integrity(self) -> None:
        super().check_integrity()
        for row in self._rows.values():
            if not self._times[row.tenant] <= row.due <= self._times[row.tenant] + 2 / MIN_WEIGHT:
                raise RuntimeError("a row is due in the past, or too far ahead")
        check_batch([self._rows[entry_id] for entry_id in self._in_step if entry_id in self._rows], self._limits)
