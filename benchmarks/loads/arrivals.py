"""When requests come: seconds after a load begins. Pure; the same seed gives the same arrivals, so that every side of a
benchmark is sent the same load.
"""

from __future__ import annotations

import random
from itertools import accumulate


def poisson(rate: float, count: int, *, seed: int) -> list[float]:
    """`count` arrivals, independent of each other, `rate` a second on average (exponential gaps)."""
    if rate <= 0:
        raise ValueError(f"rate {rate}: must be over 0")
    source = random.Random(seed)
    return list(accumulate(source.expovariate(rate) for _ in range(count)))


def every(period_s: float, count: int) -> list[float]:
    """`count` arrivals at equal distances, the first at 0."""
    return [index * period_s for index in range(count)]
