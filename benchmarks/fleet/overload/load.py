"""More asked of the planned fleet than it can do, up to five times as much, of which a part is not urgent: what is done in time, whether
what is admitted keeps its deadline, and who is refused first. Knows no report.

Every request is given up at its deadline: what a side has begun by then was done in vain. Ours refuses by its admission; others have none.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.fleet import plans
from benchmarks.fleet.baselines import LEAST_OUTSTANDING, TWO_CHOICES
from benchmarks.fleet.cases import each
from benchmarks.fleet.simulated import OURS, fleet_of, router_of
from benchmarks.fleet.workloads import CHAT, CHAT_WITHIN_S, PAINTING, PAINTING_WITHIN_S, requests
from pipelines.planning.plan import Plan
from pipelines.planning.simulation.arrivals import poisson
from pipelines.planning.simulation.fleet import Pool
from pipelines.planning.simulation.result import Result
from pipelines.planning.simulation.simulation import simulate
from pipelines.planning.simulation.workload import Request

OVERLOADS = (0.5, 1.0, 1.5, 2.5, 5.0)  # of the planned rate
NOT_URGENT = 0.3  # which part of all requests
FILLED_S = 1.5 * PAINTING_WITHIN_S  # until the lines are as long as they get
KINDS = {CHAT: CHAT_WITHIN_S, PAINTING: PAINTING_WITHIN_S}


@dataclass(frozen=True, slots=True)
class Overloaded:
    """One side with so many `times` the planned rate. `in_time`: of chats and of paintings, which part was done before the deadline; of all
    that is urgent and of what is not, `urgent_in_time` and `later_in_time`. `late`: which part of what was admitted ended after its
    deadline, or not at all; `p99`: of what ended before it, seconds over those that it had."""

    side: str
    times: float
    offered: float
    in_time: dict[str, float]
    urgent_in_time: float
    later_in_time: float
    late: float
    p99: float

    @property
    def goodput(self) -> float:
        """Requests a second of the mix as it is asked: the kind that fares worst counts for all, or who gives up on paintings would win."""
        return self.offered * min(self.in_time.values())


def overloaded(found: Plan, seconds: float, jobs: int = 1) -> Iterator[Overloaded]:
    """`seconds`: that are counted, behind those in which lines grow."""
    pools = plans.pools_of(found)
    return each(
        [
            (
                f"overload: {times:g} times the planned rate, {side}",
                partial(overload, pools, side, times, found.rate, seconds),
            )
            for times, side in itertools.product(OVERLOADS, (OURS, TWO_CHOICES, LEAST_OUTSTANDING))
        ],
        jobs,
    )


def overload(pools: Iterable[Pool], side: str, times: float, rate: float, seconds: float) -> Overloaded:
    until = FILLED_S + seconds
    arrivals = itertools.takewhile(lambda at: at < until, poisson(times * rate, seed=3))
    fleet = fleet_of(plans.stages(), pools, side)
    result = simulate(fleet, asked(arrivals), router_of(side, admits=True), window=(FILLED_S, until))
    return _of(result, side, times, times * rate)


def asked(arrivals: Iterable[float]) -> Iterator[Request]:
    """Chats and paintings, whose objective is to be done before their deadlines."""
    source = random.Random(11)
    for request in requests(arrivals, deadline_s=1.0):
        is_later = source.random() < NOT_URGENT
        yield replace(
            request, kind=_kind(request.kind, is_later=is_later), priority=int(is_later), first_within_s=float("inf")
        )


def _kind(kind: str, *, is_later: bool) -> str:
    return f"{kind}, not urgent" if is_later else kind


def _of(result: Result, side: str, times: float, offered: float) -> Overloaded:
    figures = {kind: result.figures(kind) for kind in result.requests.kinds}

    def part(*kinds: str) -> float:
        found = [figures[kind] for kind in kinds if kind in figures]
        return sum(one.num_done for one in found) / max(1, sum(one.num for one in found))

    later = {kind: _kind(kind, is_later=True) for kind in KINDS}
    admitted = sum(one.num - one.num_refused for one in figures.values())
    return Overloaded(
        side,
        times,
        offered,
        {kind: part(kind, later[kind]) for kind in KINDS},
        part(*KINDS),
        part(*later.values()),
        1 - sum(one.num_done for one in figures.values()) / max(1, admitted),
        max(
            figures[name].p99_s / within_s
            for kind, within_s in KINDS.items()
            for name in (kind, later[kind])
            if name in figures and figures[name].num_done
        ),
    )
