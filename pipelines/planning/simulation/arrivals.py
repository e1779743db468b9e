"""When requests come: endless streams of seconds since the beginning, one after another. Pure; the same seed gives the same stream."""

import math
import random
from collections.abc import Iterable, Iterator
from itertools import accumulate, repeat


def poisson(rate: float, seed: int) -> Iterator[float]:
    """Independent of each other, `rate` a second on average."""
    return gamma(rate, 1.0, seed)


def gamma(rate: float, cv: float, seed: int) -> Iterator[float]:
    """In bursts: the gaps are gamma distributed with `cv` (standard deviation over mean; 1 is Poisson's). Traces of language models in
    the cloud are fitted by 2 and more (Wang et al., "BurstGPT", 2024; Patel et al., "Splitwise", ISCA 2024, for Azure's)."""
    if not (rate > 0 and cv > 0):
        raise ValueError(f"arrivals need a rate and a spread over 0, not {rate} and {cv}")
    shape, source = cv**-2, random.Random(seed)
    return accumulate(source.gammavariate(shape, 1 / (rate * shape)) for _ in repeat(None))


def day_and_night(low: float, high: float, period_s: float, seed: int) -> Iterator[float]:
    """A rate that goes from `low` (at the beginning) to `high` and back once in a period, as a cosine (thinning: Lewis and Shedler,
    1979)."""
    if not 0 <= low <= high or not high > 0:
        raise ValueError(f"arrivals need a rate from 0 to one over 0, not from {low} to {high}")
    source = random.Random(seed)
    for at in poisson(high, seed + 1):
        rate = low + (high - low) * (1 - math.cos(2 * math.pi * at / period_s)) / 2
        if source.random() * high < rate:
            yield at


def ramp(steps: Iterable[tuple[float, float]], seed: int) -> Iterator[float]:
    """Pieces of constant rate, one after another: `(seconds, rate)`. Ends with the last one."""
    source, begins = random.Random(seed), 0.0
    for seconds, rate in steps:
        at = begins
        while rate > 0 and (at := at + source.expovariate(rate)) < begins + seconds:
            yield at
        begins += seconds


def every(period_s: float) -> Iterator[float]:
    return accumulate((period_s for _ in repeat(None)), initial=0.0)
