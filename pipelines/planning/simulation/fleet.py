"""What a simulated fleet is: stages, pools of replicas on devices of one kind each, what happens to them, and how long the ways are.

Decides what is given and what stands for it where nothing is said; what a live system adds (hops, routing) is measured there and told
here. Pure; knows no requests.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from pipelines.planning.simulation.engines.clock import quantized
from pipelines.planning.simulation.engines.devices import NO_NOISE, Noise
from stages.contract.cost import Speed, StepTimes
from stages.contract.limits import BatchLimits, QueueLimits
from stages.engine.scheduling.learned_speed import MeasuredSteps


@dataclass(frozen=True, slots=True)
class Delay:
    """Seconds, lognormal: `median_s`, and the standard deviation of the logarithm."""

    median_s: float = 0.0
    sigma: float = 0.0

    def draw(self, source: random.Random) -> float:
        if not self.sigma:
            return quantized(self.median_s)
        return quantized(self.median_s * source.lognormvariate(0.0, self.sigma))


NO_DELAY = Delay()
LONG_LINE = QueueLimits(max_items=100_000)


@dataclass(frozen=True, slots=True)
class Stage:
    """`chunk`: of prompts, so much is read in a step. `remembers`: of how many results (of an iterative stage: pages) the names are kept by
    a replica."""

    name: str
    is_iterative: bool = False
    chunk: int = 512
    queue: QueueLimits = LONG_LINE
    prepare: Delay = NO_DELAY
    remembers: int = 0


@dataclass(frozen=True, slots=True)
class Hosted:
    """A stage in a pool. `speed`: of one replica there, as it really is; its bounds are those of its batches. `profile`: what its replicas
    suppose before they have seen anything (nothing is said: the truth), `has_profile` unless they have none, and learn it."""

    stage: str
    speed: Speed
    profile: StepTimes | None = None
    has_profile: bool = True

    @property
    def batch(self) -> BatchLimits:
        return BatchLimits(self.speed.max_rows, self.speed.max_amount)

    @property
    def measured(self) -> MeasuredSteps | None:
        return MeasuredSteps(self.profile or self.speed.step, self.speed.is_estimate) if self.has_profile else None


@dataclass(frozen=True, slots=True)
class Pool:
    """`devices`: that a replica takes of its type, a part of one where it shares it. Several stages take turns on their replica's
    device. `max_ongoing`: requests that a replica holds. Replicas beyond the first `replicas` start and stop as the scaler says."""

    name: str
    device: str
    stages: tuple[Hosted, ...]
    replicas: int
    max_ongoing: int = 1_000_000
    devices: float = 1.0
    start_up_s: float = 10.0
    min_replicas: int = 1
    max_replicas: int = 1_000_000
    price_per_hour: float | None = None


class Trouble(Enum):
    DIES = "dies"
    SLOW = "slow"
    FAILS = "fails"  # everything that is sent to it, at once


@dataclass(frozen=True, slots=True)
class Incident:
    """`at_s`, the `number`th replica of a pool gets into trouble. It dies for good, and another one is started; it is `factor` times
    slower, or fails, for `for_s`."""

    at_s: float
    pool: str
    number: int
    trouble: Trouble
    factor: float = 1.0
    for_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Ways:
    """What the live system adds. `hop`: from a caller to a replica, and as long back; `door`: from a request's arrival to its first call;
    `fetch`: a result from the shared tier of the cache. `back_off_s`: a call that finds no room asks again after that, up to
    `max_back_off_s`, each time twice as long. `notice_s`: until a caller hears that a replica has died."""

    hop: Delay = NO_DELAY
    door: Delay = NO_DELAY
    fetch: Delay = Delay(0.002)
    back_off_s: float = 0.025
    max_back_off_s: float = 0.05
    notice_s: float = 0.5


NO_WAYS = Ways()


@dataclass(frozen=True, slots=True)
class Fleet:
    """`num_callers`: processes that requests come to. `num_inner_callers`: so many routers decide for all replicas that call others (0: one
    for each, as it is; a thousand that all hear of a thousand take their time). `news_period_s`: so often everyone hears from every
    replica, beside what goes with replies (0: never). `shared_names`: so many results are remembered for all (0: none).
    `has_tenants`: requests are of several; their shares are counted then, which takes its time."""

    stages: tuple[Stage, ...]
    pools: tuple[Pool, ...]
    num_callers: int = 1
    num_inner_callers: int = 0
    news_period_s: float = 2.0
    shared_names: int = 0
    has_tenants: bool = False
    ways: Ways = NO_WAYS
    noise: Noise = NO_NOISE
    incidents: tuple[Incident, ...] = ()
    after: Mapping[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)
    """Stage -> the stages whose items come to it next, and how many for each of theirs; for the scaler."""

    def __post_init__(self) -> None:
        known = {stage.name for stage in self.stages}
        for pool in self.pools:
            if missing := [hosted.stage for hosted in pool.stages if hosted.stage not in known]:
                raise ValueError(f"pool {pool.name} hosts {', '.join(missing)}, which no stage is named")
        if len({pool.name for pool in self.pools}) < len(self.pools):
            raise ValueError("two pools have the same name")
