"""The cost model: how long work takes on a device. One, for everyone who must guess that: scheduler, router, admission, autoscaler,
planner and simulator.

Decides how a step's time follows from what is in it, and an item's from the steps that it takes part in. Pure; knows no kind of stage, no
cluster and no clock. Times are seconds, amounts in the stage's own unit.
"""

from bisect import bisect_left
from dataclasses import dataclass, replace

from stages.contract.work import NO_WORK, Work


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds that a step (or a one-shot stage's batch) takes, by the amount in it: straight lines between `points` (amount, seconds), the
    amounts rising; beyond the last as between the last two, before the first as long as the first."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        amounts = [amount for amount, _ in self.points]
        if not self.points or amounts != sorted(set(amounts)) or min(seconds for _, seconds in self.points) <= 0:
            raise ValueError(f"a step's times need rising amounts and seconds over 0, not {self.points}")

    def seconds(self, amount: float) -> float:
        points = self.points
        if amount <= points[0][0]:
            return points[0][1]
        if len(points) == 1:
            return points[0][1] * amount / points[0][0] if points[0][0] > 0 else points[0][1]
        at = min(max(bisect_left(points, (amount,)), 1), len(points) - 1)
        (lower, begins), (upper, ends) = points[at - 1], points[at]
        return max(begins, begins + (ends - begins) * (amount - lower) / (upper - lower))


@dataclass(frozen=True, slots=True)
class Speed:
    """What one replica of a stage does on its device. `max_rows`, `max_amount`: of one step. `factor`: by how much longer than `step`
    says it was seen to take. `is_estimate`: by a datasheet, not by a measurement. `is_one_shot`: its batches run to their ends, and nobody
    joins meanwhile. `margin`: of twenty items nineteen took no longer than so many times what was expected (1: nothing was seen)."""

    step: StepTimes
    max_rows: int
    max_amount: float
    factor: float = 1.0
    is_estimate: bool = False
    is_one_shot: bool = False
    margin: float = 1.0

    def step_s(self, amount: float) -> float:
        return self.factor * self.step.seconds(amount)

    def corrected(self, factor: float) -> "Speed":
        return replace(self, factor=factor)

    def drain_s(self, outstanding: Work, num_items: int) -> float:
        """Until the device has done so much, of so many items, with as many of them in each step as it takes."""
        if num_items <= 0 or outstanding.steps <= 0:
            return 0.0
        rows = min(num_items, self.max_rows)
        steps = max(outstanding.steps / rows, outstanding.amount / self.max_amount)
        return steps * self.step_s(outstanding.amount / steps)

    def finish_s(self, work: Work, outstanding: Work = NO_WORK, num_items: int = 0) -> float:
        """Until one more item is done that comes after `outstanding` of `num_items` others: it waits for a place, and then shares its steps
        with as many of them as there is room for."""
        company = min(num_items, self.max_rows - 1)
        each = outstanding * (1 / num_items) if num_items else NO_WORK
        beside = company * (each.amount / each.steps if each.steps else 0.0)
        own = work.amount / work.steps if work.steps else 0.0
        waits = self.drain_s(each * (num_items - company), num_items - company) if num_items > company else 0.0
        return waits + work.steps * self.step_s(min(own + beside, max(self.max_amount, own)))

    def rate(self, work: Work) -> float:
        """Items a second of this kind, with every step as full as it may be."""
        own = work.amount / work.steps
        rows = max(1.0, min(self.max_rows, self.max_amount / own if own else self.max_rows))
        return rows / (work.steps * self.step_s(rows * own))
