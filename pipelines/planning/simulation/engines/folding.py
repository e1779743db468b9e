"""Steps that nobody joins or leaves, taken all at once: the scheduler that the engines use, and when its next decisions are known.

Decides how many of the coming steps are sure to be like this one, and does to the scheduler's account what they would have done, one by
one. It decides nothing else: `stages/engine/scheduling/scheduler.py` does. The tests compare both ways to the last bit.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

from stages.contract.limits import BatchLimits, QueueLimits
from stages.engine.scheduling.fairness import fill_fairly
from stages.engine.scheduling.learned_speed import LearnedSpeed
from stages.engine.scheduling.scheduler import Batch, Entry, IterativeScheduler
from stages.engine.scheduling.urgency import CLOSE, pressed, weighs

W = TypeVar("W")


class FoldingScheduler(IterativeScheduler[W]):
    """An `IterativeScheduler` that may be told of several steps at once. `is_shared`: whether several tenants may come; where they may
    not, nobody asks what one of them has had."""

    def __init__(
        self, batch: BatchLimits, queue: QueueLimits, speed: LearnedSpeed, *, name: str, is_shared: bool = True
    ) -> None:
        super().__init__(batch, queue, name=name, speed=speed)
        self._is_shared = is_shared

    def num_alike(self, batch: Batch[W], began: float, step_s: float, most: int) -> int:
        """How many steps, this one and the next ones, are sure to have the rows of this one, at most `most`, while nothing comes
        and none of the rows is done or changes its share."""
        rows = self._rows.values()
        if len(batch.entries) < len(rows) or (len(rows) > 1 and batch.cost > self.bound.limits.max_cost * (1 - 1e-9)):
            return 1
        until = self._first_deadline()
        if self.waiting.has_ready():
            until = min(until, self._nobody_moves_before())
        if math.isinf(until):
            return most
        return max(1, min(most, math.floor((until - began) / step_s)))

    def _first_deadline(self) -> float:
        running = min((row.entry.deadline for row in self._rows.values()), default=math.inf)
        return min(running, self.waiting.none_expires_before)

    def _nobody_moves_before(self) -> float:
        """Nobody who waits starts before that, and no row makes way."""
        tenants = {row.tenant for row in self._rows.values()} | set(self.waiting.ready_tenants())
        if len(tenants) > 1 or self._has_place(list(self._rows.values())):
            return 0.0
        waiting = [entry for entry in self.waiting if entry.ready]
        if max(row.entry.priority for row in self._rows.values()) > min(entry.priority for entry in waiting):
            return 0.0
        latest = max(row.entry.arrival for row in self._rows.values())
        return min(
            (entry.arrival + CLOSE * (entry.deadline - entry.arrival) for entry in waiting if entry.arrival < latest),
            default=math.inf,
        )

    def repeat(self, num_steps: int, began: float, step_s: float) -> Sequence[Entry[W]]:
        """After a step that began then, of which `complete` has yet to be told: so many more like it, each with a `complete` for the
        one before it. The rows of the last one, in its order."""
        for row in self._rows.values():
            row.worked(num_steps * row.cost, num_steps)  # amounts are such that sums of them are exact
        amount = sum(row.cost for row in self._rows.values())
        self.speed.observe(amount, step_s, times=num_steps)
        if self._is_shared:
            self._charge_each(num_steps, step_s)
        self._have_turns(num_steps - 1, began, step_s)
        chosen = fill_fairly(self._rows_by_tenant(), self.bound.limits, self._counters)
        self._have_turns(1, began + (num_steps - 1) * step_s, step_s)
        return [row.entry for row in chosen]

    def _charge_each(self, num_steps: int, step_s: float) -> None:
        """One by one, so that it comes out the same to the last bit."""
        tenants = {*(row.tenant for row in self._rows.values()), *self.waiting.ready_tenants()}
        for _ in range(num_steps):
            self._counters.charge(self._used, step_s)
            self._counters.begin(tenants)

    def _have_turns(self, num_steps: int, began: float, step_s: float) -> None:
        """As `next_batch` has its rows, so many times."""
        for rows in self._rows_by_tenant().values():
            dues = [row.due for row in rows]
            pressing = [pressed(row.entry) for row in rows]
            first = self._times[rows[0].tenant]
            for number in range(1, num_steps + 1):
                now, first = began + number * step_s, min(dues)
                for at, (by_priority, arrival, allowed) in enumerate(pressing):
                    turn = 1 / weighs(by_priority, arrival, allowed, now)
                    due = first + turn
                    dues[at] = (due if due < dues[at] else dues[at]) + turn
            self._times[rows[0].tenant] = first
            for row, due in zip(rows, dues, strict=True):
                row.due = due
