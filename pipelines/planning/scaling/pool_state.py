"""What scaling is decided from: the state of every pool now, what all of them may take together, and how carefully they are scaled.

Pure values, in the cost model's units; decides nothing. Who fills them in is `pipelines/cluster/scaling/scaler.py`, or the simulator.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from stages.contract.cost import Speed
from stages.contract.work import NO_WORK, Work


@dataclass(frozen=True, slots=True)
class Feed:
    """What leaves `stage` comes here next: so many `items` for each of its own."""

    stage: str
    items: float = 1.0


@dataclass(frozen=True, slots=True)
class StageLoad:
    """One stage in one pool, of all replicas of the pool together.

    `speed`: of one replica; None: nobody knows. `arriving`, `leaving`: items a second since the last time, and `work` of those that
    arrived, a second. What arrives at a pool without replicas counts, too. `backlog`: what is left to do of all `num_items` that wait or
    run, also of those that wait at callers for a replica; not of those that wait for other stages' results. `after`: the stages whose
    items come here next."""

    stage: str
    speed: Speed | None = None
    arriving: float = 0.0
    work: Work = NO_WORK
    leaving: float = 0.0
    backlog: Work = NO_WORK
    num_items: int = 0
    after: tuple[Feed, ...] = ()


@dataclass(frozen=True, slots=True)
class PoolState:
    """One pool. `running`, `starting` and `stopping`: replicas, each of which has its devices; beyond the target, too, while a change
    replaces them. `device`: what the budget counts, of which a replica takes `devices` (a part of one where it shares it).
    `start_up_s`: until a new replica serves. `failing`: which part of its latest items it failed by its own fault.
    `items_per_replica`: how many items a replica should have in hand, where no pool of the stage knows its speed.
    `weight`: where there is not enough for all, this pool's stages get so many times what one of weight 1 gets of what it needs.
    `up_after_s`, `down_after_s`, `to_zero_after_s`: how long the evidence must have lasted."""

    pool: str
    stages: tuple[StageLoad, ...]
    device: str = "cpu"
    devices: float = 1.0
    running: int = 0
    starting: int = 0
    stopping: int = 0
    min_replicas: int = 1
    max_replicas: int = 1
    start_up_s: float = 10.0
    price_per_hour: float | None = None
    failing: float = 0.0
    items_per_replica: float = 1.0
    weight: float = 1.0
    up_after_s: float = 0.0
    down_after_s: float = 60.0
    to_zero_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """Of all pools together. `devices`: by device type, how many; a type that is not named has no bound. `price_per_hour`: None: no
    bound, and a pool without a price costs nothing."""

    devices: Mapping[str, float] = field(default_factory=dict)
    price_per_hour: float | None = None


@dataclass(frozen=True, slots=True)
class Scaling:
    """`target_utilisation`: of what replicas do with full batches, so much is planned for; the rest is for bursts, and drains what
    waits. `most_utilisation`: beyond it more replicas are needed. `drain_s`: how soon what doesn't fit the running batches should be
    done. `period_s`: between two decisions. `certainty`: how many standard deviations of chance the evidence must stand out."""

    target_utilisation: float = 0.75
    most_utilisation: float = 0.9
    drain_s: float = 20.0
    period_s: float = 2.0
    certainty: float = 4.0
