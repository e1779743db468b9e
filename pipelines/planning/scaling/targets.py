"""How many replicas each pool should have: one decision for all pools of all applications, under one budget.

Pure: no clock, no globals; what must be known from one decision to the next is a `Memory` that goes in and comes out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.planning.scaling.pool_state import Budget, PoolState, Scaling


@dataclass(frozen=True, slots=True)
class Memory:
    """What a decision leaves to the next. Empty at the start. `targets`: what was decided last."""

    targets: Mapping[str, int] = field(default_factory=dict)


def targets(
    pools: Sequence[PoolState], budget: Budget, settings: Scaling, memory: Memory, now: float
) -> tuple[Mapping[str, int], Memory]:
    """Replicas of every pool, by its name. `now`: seconds, of a clock that only goes forward."""
    decided: dict[str, int] = {}
    left = dict(budget.devices)
    for pool in pools:
        wanted = math.ceil(sum(load.num_items for load in pool.stages) / pool.items_per_replica)
        wanted = max(pool.min_replicas, min(pool.max_replicas, wanted))
        if pool.device in left:
            wanted = max(0, min(wanted, int(left[pool.device] / pool.devices + 1e-9)))
            left[pool.device] -= wanted * pool.devices
        decided[pool.pool] = wanted
    return decided, Memory(decided)
