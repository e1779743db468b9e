"""Sides in the simulator: the product's own router and autoscaler, and others', on the same pools with the same requests. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from benchmarks.fleet.baselines import LEAST_OUTSTANDING, ROUND_ROBIN, TWO_CHOICES, cap_of
from benchmarks.fleet.mixes import STAGE, Mix
from benchmarks.fleet.others import router as others_router
from pipelines.planning.simulation.deciders import Router
from pipelines.planning.simulation.fleet import Fleet, Hosted, Pool, Stage, Ways
from pipelines.planning.simulation.own import OwnRouter
from pipelines.planning.simulation.workload import Request, Task
from pipelines.routing.admission import Admission

OURS = "Triptych"
SIDES = (OURS, TWO_CHOICES, LEAST_OUTSTANDING, ROUND_ROBIN)
NUM_CALLERS = 2


def router_of(side: str, *, admits: bool = False) -> Callable[[random.Random], Router]:
    """One for each calling process. `admits`: ours refuses what can't be done in time; others know of no such thing."""
    if side == OURS:
        return lambda source: OwnRouter(source, admission=Admission() if admits else None)
    return lambda source: others_router(side, source.getrandbits(30))


def fleet_of(
    stages: Sequence[Stage], pools: Iterable[Pool], side: str, *, num_callers: int = NUM_CALLERS, ways: Ways = Ways()
) -> Fleet:
    """As that side would be deployed: two choices work with Serve's cap on ongoing requests."""
    capped = tuple(replace(pool, max_ongoing=_cap(pool)) if side == TWO_CHOICES else pool for pool in pools)
    return Fleet(tuple(stages), capped, num_callers=num_callers, ways=ways)


def _cap(pool: Pool) -> int:
    return cap_of(max(hosted.speed.max_rows for hosted in pool.stages))


def stage_of(mix: Mix) -> Stage:
    return Stage(STAGE, mix.is_iterative)


def pools_of(mix: Mix, *, has_profile: bool = True) -> tuple[Pool, ...]:
    """`has_profile`: else its replicas learn their speed."""
    return tuple(
        Pool(pool.name, pool.name, (Hosted(STAGE, pool.speed, has_profile=has_profile),), pool.num_replicas)
        for pool in mix.pools
    )


def requests_of(mix: Mix, after_s: float = 0.0) -> list[Request]:
    """`after_s`: so much later."""
    return [
        Request(after_s + request.at_s, (Task(STAGE, request.work.amount / request.work.steps, round(request.work.steps)),))
        for request in mix.requests
    ]
