"""Three kinds of work on a fleet of three speeds, 1 : 3 : 6: what is asked when, and what a device takes for it. Pure, so that the live
cluster and the simulator are sent the very same.

A device only lets time pass (`live/sleeping.py`), as long as its pool's `StepTimes` say. All times follow from the rate that a machine
can carry: a slower machine gets slower devices, and the load of 0.9 stays 0.9.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.loads.arrivals import poisson
from stages.contract.cost import Speed, StepTimes
from stages.contract.work import Work

STAGE = "paced.stage"
SPEEDS = {"slow": 1.0, "medium": 3.0, "fast": 6.0}
REPLICAS_EACH = 2
LOAD = 0.9
NUM_REQUESTS = 10_000
SEED = 18


@dataclass(frozen=True, slots=True)
class Request:
    """`at_s`: after the load began."""

    at_s: float
    work: Work


@dataclass(frozen=True, slots=True)
class PacedPool:
    """So many replicas of one speed."""

    name: str
    num_replicas: int
    speed: Speed


@dataclass(frozen=True, slots=True)
class Mix:
    """`is_iterative`: its items are rows that join and leave between steps; else they are batched."""

    name: str
    is_iterative: bool
    max_rows: int
    pools: tuple[PacedPool, ...]
    requests: tuple[Request, ...]

    @property
    def rate(self) -> float:
        """Requests a second, on average."""
        return len(self.requests) / self.requests[-1].at_s

    def replicas(self) -> list[str]:
        """POOL-NUMBER, of all."""
        return [f"{pool.name}-{number}" for pool in self.pools for number in range(pool.num_replicas)]


@dataclass(frozen=True, slots=True)
class _Kind:
    """`base`: which part of a full step's time is there however little is in it."""

    name: str
    is_iterative: bool
    max_rows: int
    base: float


ENCODES = _Kind("encodes", is_iterative=False, max_rows=4, base=1 / 3)
ANSWERS = _Kind("answers", is_iterative=True, max_rows=8, base=1 / 2)
PAINTINGS = _Kind("paintings", is_iterative=False, max_rows=1, base=1 / 9)


def mixes(rate: float, num_requests: int = NUM_REQUESTS, load: float = LOAD, *, replicas: int = 1) -> list[Mix]:
    """Images to be encoded in batches of 4, answers of unlike length in steps of up to 8 rows, and paintings one at a time of which every
    fifth takes four times as long. `rate` a second, which is `load` of what the devices do; `replicas`: times two of each speed."""
    source = random.Random(SEED)
    works = {
        ENCODES: [Work(source.uniform(0.5, 1.5)) for _ in range(num_requests)],
        ANSWERS: [_rows(_length(source)) for _ in range(num_requests)],
        PAINTINGS: [Work(4.0 if source.random() < 0.2 else 1.0) for _ in range(num_requests)],
    }
    return [_mix(kind, each, rate, load, replicas * REPLICAS_EACH) for kind, each in works.items()]


def _length(source: random.Random) -> int:
    """Steps: 12 on average, with a long tail."""
    return max(2, min(60, round(source.lognormvariate(2.25, 0.7))))


def _rows(steps: int) -> Work:
    return Work(float(steps), float(steps))


def _mix(kind: _Kind, works: Sequence[Work], rate: float, load: float, replicas: int) -> Mix:
    mean = sum(works, start=Work(0.0, 0.0)) * (1 / len(works))
    fleet = replicas * sum(SPEEDS.values())
    full_step_s = load * fleet * kind.max_rows / (rate * mean.steps)  # of a replica of speed 1
    pools = tuple(
        PacedPool(name, replicas, _speed(kind, full_step_s / speed, mean.amount / mean.steps))
        for name, speed in SPEEDS.items()
    )
    arrivals = poisson(rate, len(works), seed=SEED)
    requests = tuple(Request(at_s, work) for at_s, work in zip(arrivals, works, strict=True))
    return Mix(kind.name, kind.is_iterative, kind.max_rows, pools, requests)


def _speed(kind: _Kind, full_step_s: float, mean_amount: float) -> Speed:
    """A step takes `full_step_s` with `max_rows` rows of `mean_amount` in it."""
    full = kind.max_rows * mean_amount
    slope = (1 - kind.base) * full_step_s / full
    points = ((0.0, kind.base * full_step_s), (full, full_step_s), (10 * full, full_step_s + 9 * full * slope))
    return Speed(StepTimes(points), kind.max_rows, max_amount=1e9, is_one_shot=not kind.is_iterative)
