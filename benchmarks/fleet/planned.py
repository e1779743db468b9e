"""The plan beside what people do without one, on equal hardware; and the planned fleet under traces: in bursts, with much that comes
again. Knows no report."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.fleet import plans
from benchmarks.fleet.cases import each
from benchmarks.fleet.plans import BY_TYPE, EVEN, MONOLITH
from benchmarks.fleet.simulated import OURS, SIDES, fleet_of, router_of
from benchmarks.fleet.workloads import MIXED, REUSED, Taste, requests
from benchmarks.reporting.command import tell
from pipelines.planning.plan import Plan
from pipelines.planning.planner import plan
from pipelines.planning.simulation.arrivals import gamma, poisson
from pipelines.planning.simulation.fleet import Pool
from pipelines.planning.simulation.result import Figures, Result
from pipelines.planning.simulation.simulation import simulate

PLANNED = "planned"
SATURATED = 1.25  # of the plan's own rate with devices that never rest
BURSTS_CV = 3.0
FILLED = 0.3  # of the time, until what is counted begins


@dataclass(frozen=True, slots=True)
class Ran:
    """One fleet under one load. `load`: in words. `in_time`: by class of requests, which part of them was done within its objectives.
    `utilisations`, `full_parts`: by type of device."""

    side: str
    load: str
    offered: float
    figures: Figures
    in_time: Mapping[str, float]
    utilisations: Mapping[str, float]
    full_parts: Mapping[str, float]

    @property
    def goodput(self) -> float:
        """Requests a second of the mix as it is asked: what is done of the class that fares worst counts for all, or who gives up on
        paintings and does the many small chats would win."""
        return self.offered * min(self.in_time.values())


@dataclass(frozen=True, slots=True)
class AtSaturation:
    """The plan with more asked than it promises. `work_part`: of the work that its own pools would do at its own rate with devices that
    never rest, so much was done. Of each type of device, `full_parts`."""

    work_part: float
    full_parts: Mapping[str, float]
    bound_gap: float


def the_plan(taste: Taste = MIXED) -> Plan:
    tell("planning")
    return plan(plans.planned_for(taste))


def beside_others(found: Plan, seconds: float, jobs: int = 1) -> Iterator[Ran]:
    """At the rate that the plan promises, and at what its devices do when they never rest."""
    loads = {"the plan's rate": found.rate, "the plan's rate, no rest": found.saturated_rate}
    return each(
        [
            (f"plans: {side} at {load}", partial(_beside, side, load, rate, found, seconds))
            for load, rate in loads.items()
            for side in (PLANNED, EVEN, BY_TYPE, MONOLITH)
        ],
        jobs,
    )


def _beside(side: str, load: str, rate: float, found: Plan, seconds: float) -> Ran:
    pools = plans.pools_of(found) if side == PLANNED else plans.without_a_plan(side)
    return _ran(side, load, rate, pools, OURS, poisson(rate, seed=1), seconds, admits=True)


def saturated(found: Plan, seconds: float) -> AtSaturation:
    """Without admission, so that the lines are never empty."""
    tell("the plan at saturation")
    rate = SATURATED * found.saturated_rate
    result = _result(plans.pools_of(found), OURS, poisson(rate, seed=2), seconds, MIXED, admits=False, deadline_s=float("inf"))
    promised = {pool.name: sum(stage.busy for stage in pool.stages) / found.target_utilisation for pool in found.pools}
    done = {name: each.full_part for name, each in result.devices.items()}
    sizes = {pool.name: pool.replicas * pool.fraction for pool in found.pools}
    whole = sum(promised[name] * size for name, size in sizes.items())
    part = sum(min(done[name], promised[name]) * size for name, size in sizes.items()) / whole
    return AtSaturation(part, {device: each.full_part for device, each in result.by_device().items()}, found.gap)


def traces(found: Plan, seconds: float, jobs: int = 1) -> Iterator[Ran]:
    """At the planned rate: in bursts, and with much that comes again."""
    return each(
        [
            *((f"bursts, {side}", partial(_in_bursts, side, found, seconds)) for side in SIDES),
            *((f"reuse, {side}", partial(_reused, side, found, seconds)) for side in SIDES),
        ],
        jobs,
    )


def _in_bursts(side: str, found: Plan, seconds: float) -> Ran:
    arrivals = gamma(found.rate, BURSTS_CV, seed=4)
    return _ran(side, "in bursts", found.rate, plans.pools_of(found), side, arrivals, seconds, admits=True)


def _reused(side: str, found: Plan, seconds: float) -> Ran:
    arrivals, pools = poisson(found.rate, seed=5), plans.pools_of(found)
    return _ran(side, "skewed reuse", found.rate, pools, side, arrivals, seconds, admits=True, taste=REUSED)


def _ran(
    side: str,
    load: str,
    rate: float,
    pools: Iterable[Pool],
    router: str,
    arrivals: Iterable[float],
    seconds: float,
    *,
    admits: bool,
    taste: Taste = MIXED,
) -> Ran:
    result = _result(pools, router, arrivals, seconds, taste, admits=admits, deadline_s=1.0)
    devices = result.by_device()
    return Ran(
        side,
        load,
        rate,
        result.figures(),
        {kind: _in_time(result.figures(kind), result.window_s) for kind in result.requests.kinds},
        {device: done.utilisation for device, done in devices.items()},
        {device: done.full_part for device, done in devices.items()},
    )


def _in_time(figures: Figures, seconds: float) -> float:
    return figures.goodput * seconds / max(1, figures.num)


def _result(
    pools: Iterable[Pool],
    router: str,
    arrivals: Iterable[float],
    seconds: float,
    taste: Taste,
    *,
    admits: bool,
    deadline_s: float,
) -> Result:
    """`deadline_s`: a request is given up after so many times its objective. Counted once the fleet has filled, until the last comes."""
    asked = requests(itertools.takewhile(lambda at: at < seconds, arrivals), taste, deadline_s=deadline_s)
    fleet = replace(fleet_of(plans.stages(), pools, router), shared_names=5000 if taste.images else 0)
    return simulate(fleet, asked, router_of(router, admits=admits), window=(FILLED * seconds, seconds))
