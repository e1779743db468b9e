"""The cost model: how long work takes on a device. One, for everyone who must guess that: scheduler, router, admission, autoscaler,
planner and simulator.

Decides how a step's time follows from what is in it, and an item's from the steps that it takes part in. Pure; knows no kind of stage, no
cluster and no clock. Times are seconds, amounts in the stage's own unit.

Who waits is a fluid, as far as nobody knows better: of so many rows that share a device one ends about as often as each ends on the
average, over their number.
"""

import math
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Generic, TypeVar

from stages.contract.message import ALL, message
from stages.contract.work import NO_WORK, Work

MARGIN_QUANTILE = 0.95
"""Which `Speed.margin` is of."""
_DEVIATIONS = NormalDist().inv_cdf(MARGIN_QUANTILE)
K = TypeVar("K", bound=Hashable)


@message
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
        lower, begins = points[0]
        if amount <= lower:
            return begins
        if len(points) == 2:
            upper, ends = points[1]
        elif len(points) == 1:
            return begins * amount / lower if lower > 0 else begins
        else:
            at = bisect_left(points, (amount,), 1, len(points) - 1)
            (lower, begins), (upper, ends) = points[at - 1], points[at]
        return begins + (ends - begins) * (amount - lower) / (upper - lower) if ends > begins else begins

    def more_s(self, amount: float) -> float:
        """That so much more takes in the long run, whatever steps it is in: by the line from the first point to the last."""
        (lower, begins), (upper, ends) = self.points[0], self.points[-1]
        if len(self.points) == 1:
            return ends * amount / upper if upper > 0 else 0.0
        return max(0.0, ends - begins) * amount / (upper - lower)


@dataclass(frozen=True, slots=True)
class Ahead:
    """What lies before a newcomer: `waits_s` until it has a place, then company that adds `beside` to each of `lasts` steps."""

    waits_s: float
    beside: float
    lasts: float


NOTHING_AHEAD = Ahead(0.0, 0.0, math.inf)


def shared_s(alone_s: float, others_s: Iterable[float]) -> float:
    """Until what takes `alone_s` of a device's time is done there, beside others that have so much left to do and get as large a share of
    its time: until then each has had as much as it, or all that it wanted (processor sharing)."""
    return alone_s + sum(min(alone_s, other_s) for other_s in others_s)


@message(droppable=[ALL])
@dataclass(frozen=True, slots=True)
class Part:
    """What one tenant has of what is outstanding, and in how many items; `later` of it, in `num_later` items, goes behind its own newcomers
    of priority 0."""

    outstanding: Work
    num_items: float
    later: Work = NO_WORK
    num_later: float = 0.0


class Turns(Generic[K]):
    """All that is outstanding, `num_items` of it, and what of it is whose (`parts`): of whom nobody tells, all goes before everybody's."""

    __slots__ = ("_amount", "_later", "_num_items", "_steps", "_told", "_untold")

    def __init__(self, outstanding: Work, num_items: float, parts: Mapping[K, Part]) -> None:
        self._amount, self._steps, self._num_items = outstanding.amount, outstanding.steps, num_items
        self._told = {
            tenant: (part.outstanding.amount, part.outstanding.steps, part.num_items) for tenant, part in parts.items()
        }
        told = self._told.values()
        self._untold = (
            max(0.0, self._amount - sum(one[0] for one in told)),
            max(0.0, self._steps - sum(one[1] for one in told)),
            max(0.0, num_items - sum(one[2] for one in told)),
        )
        self._later = {tenant: (part.later, part.num_later) for tenant, part in parts.items() if part.num_later}

    def before(self, tenant: K, amount: float, company: float, *, is_urgent: bool = True) -> tuple[Work, float]:
        """What of it a device does before or beside an item of this tenant, of so much, that comes last, and of how many items: its own
        tenant's (where it `is_urgent` but for what is later), and of each other one's as much as that and the item itself, since whoever
        has had least is served first. At least as many as keep it company in any case, which it finds there."""
        all_amount, all_steps, all_num = self._amount, self._steps, self._num_items
        before, steps, num = self._untold
        own = self._told.get(tenant)
        enough = amount
        if own is not None:
            own_amount, own_steps, own_num = own
            if is_urgent and tenant in self._later:
                later, num_later = self._later[tenant]
                own_amount, own_steps, own_num = own_amount - later.amount, own_steps - later.steps, own_num - num_later
                all_amount, all_steps, all_num = all_amount - later.amount, all_steps - later.steps, all_num - num_later
            before, steps, num, enough = before + own_amount, steps + own_steps, num + own_num, enough + own_amount
        for other, (its_amount, its_steps, its_num) in self._told.items():
            if other == tenant:
                continue
            if its_amount <= enough:
                before, steps, num = before + its_amount, steps + its_steps, num + its_num
            else:
                share = enough / its_amount
                before, steps, num = before + share * its_amount, steps + share * its_steps, num + share * its_num
        least = all_num if all_num < company else company
        if num < least:
            missing = (least - num) / (all_num - num)
            before, steps, num = before + missing * (all_amount - before), steps + missing * (all_steps - steps), least
        return Work(max(0.0, min(before, all_amount)), max(0.0, min(steps, all_steps))), max(0.0, min(num, all_num))


@message(droppable=[ALL])
@dataclass(frozen=True, slots=True)
class Speed:
    """What one replica of a stage does on its device. `max_rows`, `max_amount`: of one step. `factor`: by how much longer than `step`
    says it was seen to take (also because the device is shared). `is_estimate`: by a datasheet, not by a measurement. `is_one_shot`: its
    batches run to their ends, and nobody joins meanwhile. `margin`: of twenty items nineteen took no longer than so many times what was
    expected (1: nothing was seen). `beside_s`: what every item takes beside that, however much is to be done: to be prepared, to be handed
    over."""

    step: StepTimes
    max_rows: int
    max_amount: float
    factor: float = 1.0
    is_estimate: bool = False
    is_one_shot: bool = False
    margin: float = 1.0
    beside_s: float = 0.0

    @property
    def company(self) -> float:
        """As many share a step with an item that comes when there is much to do; before a batch that it waits for there is another."""
        return 2.0 * self.max_rows - 1.0 if self.is_one_shot else float(self.max_rows)

    def step_s(self, amount: float) -> float:
        return self.factor * self.step.seconds(amount)

    def corrected(self, factor: float) -> "Speed":
        return replace(self, factor=factor)

    def drain_s(self, outstanding: Work, num_items: float) -> float:
        """Until the device has done so much, of so many items, with as many of them in each step as it takes."""
        if num_items <= 0 or outstanding.steps <= 0:
            return 0.0
        rows = min(num_items, self.max_rows)
        steps = max(outstanding.steps / rows, outstanding.amount / self.max_amount)
        return steps * self.step_s(outstanding.amount / steps)

    def finish_s(self, work: Work, outstanding: Work = NO_WORK, num_items: float = 0) -> float:
        """Until one more item is done that comes after `outstanding` of `num_items` others."""
        return self.after(work, self.ahead(outstanding, num_items))

    def ahead(self, outstanding: Work, num_items: float) -> Ahead:
        """What a newcomer finds, whatever it is: it waits for a place, and then shares its steps with as many of them as there is room
        for. A one-shot stage's waits for the batch that runs, and those before its own."""
        if num_items <= 0 or outstanding.steps <= 0:
            return NOTHING_AHEAD
        return (self._batches_ahead if self.is_one_shot else self._rows_ahead)(outstanding, num_items)

    def after(self, work: Work, ahead: Ahead) -> float:
        """Until it is done."""
        return self.done_s(work, ahead.waits_s, ahead.beside, ahead.lasts)

    def done_s(self, work: Work, waits_s: float, beside: float, lasts: float) -> float:
        """As `after`, of what an `Ahead` says."""
        steps = work.steps
        if steps <= 0:
            return waits_s
        own = work.amount / steps
        if lasts < steps:
            beside *= lasts / steps
        if beside and self.is_one_shot and beside + own > self.max_amount:
            return waits_s + self.factor * (self.step.seconds(beside) + self.step.seconds(own))
        return waits_s + self.factor * steps * self.step.seconds(own + beside)

    def finish_quantile_s(
        self, work: Work, outstanding: Work = NO_WORK, num_items: float = 0, quantile: float = MARGIN_QUANTILE
    ) -> float:
        """As `finish_s`, but so that this part of all items takes no longer: by how far items were seen to miss what was expected,
        their ratios taken to be lognormal."""
        deviations = _DEVIATIONS if quantile == MARGIN_QUANTILE else NormalDist().inv_cdf(quantile)
        return self.finish_s(work, outstanding, num_items) * math.exp(math.log(self.margin) * deviations / _DEVIATIONS)

    def rate(self, work: Work) -> float:
        """Items a second of this kind, with every step as full as it may be."""
        own = work.amount / work.steps
        rows = self._rows_of(own)
        return rows / (work.steps * self.step_s(rows * own))

    def _rows_of(self, amount: float) -> float:
        """How many items share a step, of so much each: a whole number."""
        rows = self.max_amount / amount if amount > 0 else self.max_rows
        return self.max_rows if rows >= self.max_rows else rows // 1 if rows > 1.0 else 1.0

    def _rows_ahead(self, outstanding: Work, num_items: float) -> Ahead:
        """Others end on the way: their company lasts as long as they do on the average."""
        each_steps, each_amount = outstanding.steps / num_items, outstanding.amount / outstanding.steps
        rows = self._rows_of(each_amount)
        if num_items <= rows - 1:  # the step that runs is half done
            beside = num_items * each_amount
            return Ahead(0.5 * self.factor * self.step.seconds(beside), beside, each_steps)
        steps = (num_items - rows + 1) * each_steps / rows
        return Ahead(self.factor * steps * self.step.seconds(rows * each_amount), (rows - 1) * each_amount, each_steps)

    def _batches_ahead(self, outstanding: Work, num_items: float) -> Ahead:
        """What runs is a batch of the oldest; what of it is done is no longer outstanding."""
        seconds, each = self.step.seconds, outstanding.amount / outstanding.steps
        rows = self._rows_of(each)
        running = num_items if num_items < rows else rows
        waiting = num_items - running
        left = (outstanding.steps - waiting) / running  # of what runs
        waits_s = seconds(running * each) * (left if 0.0 < left < 1.0 else 0.0 if left <= 0.0 else 1.0)
        if waiting >= rows:
            waits_s += waiting // rows * seconds(rows * each)
        return Ahead(self.factor * waits_s, waiting % rows * each, math.inf)
