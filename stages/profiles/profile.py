"""What was measured of a stage on a device, and how fast a replica of it is by that.

Decides how measured points become `StepTimes`. Pure; knows no file, no clock and no stage. Amounts are in the stage's own unit
(`stages/contract/work.py`), times are seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from stages.contract.cost import Speed, StepTimes

ITERATIVE = ("llm", "denoiser")
"""Kinds of stage whose rows take part in many steps; of the others a batch runs once."""


@dataclass(frozen=True, slots=True)
class Point:
    """A step of the device (or a one-shot stage's batch) of `rows` items with `amount` in all took `seconds`: the median of several.
    `spread`: by which part of that the middle half of them differed."""

    rows: int
    amount: float
    seconds: float
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class StageProfile:
    """Of one stage on one device in one dtype. `stage`: what it was called where it was measured (MODEL.PART). `fingerprint`: the hex
    digest of the weights and settings files that it was loaded from; `source`: where they came from. `device`: the model's name
    ("NVIDIA L4", "cpu"). `weights_bytes`: of device memory, once loaded; `row_bytes`: for each row of a step or item of a batch beside
    that, at the most. `load_s`: to load it. `is_estimate`: reckoned from another device's by their datasheets, not measured."""

    stage: str
    kind: str
    loader: str
    fingerprint: str
    device: str
    dtype: str
    points: tuple[Point, ...]
    weights_bytes: int
    row_bytes: int
    source: str = ""
    load_s: float = 0.0
    is_estimate: bool = False

    @property
    def is_iterative(self) -> bool:
        return self.kind in ITERATIVE

    @property
    def step_times(self) -> StepTimes:
        return fitted(self.points)

    def speed(self, max_rows: int, max_amount: float) -> Speed:
        """Of one replica whose steps hold so much at the most."""
        return Speed(self.step_times, max_rows, max_amount, is_estimate=self.is_estimate, is_one_shot=not self.is_iterative)

    def num_bytes(self, rows: int) -> int:
        """Of device memory, with so many rows in a step."""
        return self.weights_bytes + rows * self.row_bytes


def fitted(points: Sequence[Point]) -> StepTimes:
    """The step times that come nearest to the points and never fall (isotonic regression by pooling adjacent violators: Barlow et al.,
    1972): more work never takes less time, whatever a noisy measurement says. Of several points of one amount their median counts.
    Raises `ValueError` for no points."""
    seconds_at: dict[float, list[float]] = {}
    for point in points:
        seconds_at.setdefault(point.amount, []).append(point.seconds)
    amounts = sorted(seconds_at)
    pools: list[tuple[float, int]] = []  # mean seconds, and of how many amounts
    for amount in amounts:
        mean, count = median(seconds_at[amount]), 1
        while pools and pools[-1][0] >= mean:
            before, many = pools.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        pools.append((mean, count))
    rising = [mean for mean, count in pools for _ in range(count)]
    return StepTimes(tuple(zip(amounts, rising, strict=True)))
