"""Who chooses the replica, on a fleet of speeds 1 : 3 : 6: at nine tenths of what its devices do, and with more asked than they do.
Knows no report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from benchmarks.fleet.cases import each
from benchmarks.fleet.mixes import Mix, mixes
from benchmarks.fleet.simulated import SIDES, fleet_of, pools_of, requests_of, router_of, stage_of
from pipelines.planning.simulation.result import Figures, Result
from pipelines.planning.simulation.simulation import simulate

TIMES = 2  # as many replicas as the live cluster has
RATE = 200.0
BUSY, TOO_MUCH = 0.9, 1.3


@dataclass(frozen=True, slots=True)
class Routed:
    """`full_parts`: by type of device, of what it would do with full batches all the time; `shares`: of the requests, by pool."""

    mix: str
    side: str
    load: float
    figures: Figures
    full_parts: Mapping[str, float]
    shares: Mapping[str, float]


def routed(num_requests: int, jobs: int = 1) -> Iterator[Routed]:
    return each(
        [
            (f"routing: {mix.name} at {load:g}, {side}", partial(_one, mix, side, load))
            for load in (BUSY, TOO_MUCH)
            for mix in mixes(RATE, num_requests, load, replicas=TIMES)
            for side in SIDES
        ],
        jobs,
    )


def _simulated(mix: Mix, side: str) -> Result:
    """Counted once the fleet has filled, and until the last request comes."""
    last = mix.requests[-1].at_s
    fleet = fleet_of([stage_of(mix)], pools_of(mix), side)
    return simulate(fleet, requests_of(mix), router_of(side), window=(0.2 * last, last))


def _one(mix: Mix, side: str, load: float) -> Routed:
    result = _simulated(mix, side)
    found = result.requests
    counts = {name: found.pool.count(place) for place, name in enumerate(found.pools)}
    return Routed(
        mix.name,
        side,
        load,
        result.figures(),
        {device: done.full_part for device, done in result.by_device().items()},
        {name: count / len(found) for name, count in counts.items()},
    )
