"""How often something was how long or how large: counts by upper bounds. Decides the bounds that quantiles are read from; knows no
Prometheus and no lock.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from stages.contract.message import ALL, message

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
ITEMS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


@message(droppable=[ALL])
@dataclass(frozen=True, slots=True)
class HistogramCounts:
    """`counts`: of each bound, how much was over the one before it and not over this one; the last, over all of them. `total`: the sum of
    all that was observed."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Histogram:
    """`observe` takes less than a microsecond. Of one thread, or under its owner's lock."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds, self._counts, self._total = tuple(bounds), [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def counts(self) -> HistogramCounts:
        return HistogramCounts(self._bounds, tuple(self._counts), self._total)
