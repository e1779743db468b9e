"""What a `StepLog` tells: the device's share of the time, what a request cost beside its steps, when a row was freed. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.paced.stages import Step


@dataclass(frozen=True, slots=True)
class StepHistory:
    """All steps of one server, in order."""

    steps: Sequence[Step]

    def of_rows(self) -> Mapping[int, Sequence[Step]]:
        """Row -> the steps that it took part in."""
        found: dict[int, list[Step]] = defaultdict(list)
        for step in self.steps:
            for row in step.rows:
                found[row].append(step)
        return found

    def busy_share(self, began: float, ended: float) -> float:
        """How much of the time between two moments was spent in steps."""
        inside = (max(0.0, min(step.ended, ended) - max(step.began, began)) for step in self.steps)
        return sum(inside) / (ended - began)

    def within(self, began: float, ended: float) -> Sequence[Step]:
        return [step for step in self.steps if step.began >= began and step.ended <= ended]


def gaps_s(steps: Iterable[Step]) -> list[float]:
    """From the end of each step to the beginning of the next."""
    return [after.began - before.ended for before, after in pairwise(steps)]


def device_s(steps: Iterable[Step]) -> float:
    return sum(step.ended - step.began for step in steps)


@dataclass(frozen=True, slots=True)
class Line:
    """`fixed + each * count`."""

    fixed: float
    each: float


def line_through(count: float, value: float, other_count: float, other_value: float) -> Line:
    """Through two points of different counts."""
    each = (other_value - value) / (other_count - count)
    return Line(value - each * count, each)
