"""`python -m benchmarks.fleet.live`: three mixes of 10,000 requests on a Ray cluster of three nodes whose devices have speeds 1 : 3 : 6
(about 40 minutes on 2 cores, `--ours` about 10; `--quick`: about 5, to see that it runs).

Devices sleep, so that what two cores carry is Ray's hops. How many that are is measured first, and the mixes ask for a part of it: then
what is compared is who chooses which replica, at 0.9 of what the devices can do. Every side is sent the same requests at the same times.
What `queue_s` and `run_s` of a request's receipt leave of its time is what the cluster itself adds. The simulator is told how that is
spread, and by how much steps are longer than their device, which is measured before, of other requests that come as often; then what it
finds for the same requests stands beside what was measured.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import psutil

from benchmarks.fleet.live.cluster import Nodes, three_nodes
from benchmarks.fleet.live.sides import OURS, SIDES, Ask, Side, settled, side
from benchmarks.fleet.mixes import LOAD, NUM_REQUESTS, SPEEDS, Mix, PacedPool, Request, mixes
from benchmarks.fleet.simulated import fleet_of, pools_of, requests_of, router_of, stage_of
from benchmarks.loads.load import closed_loop, open_loop
from benchmarks.loads.spread import percentile
from benchmarks.reporting.command import described, results_folder, started, tell
from benchmarks.reporting.report import Goal, Report
from pipelines.planning.simulation.fleet import Delay, Ways
from pipelines.planning.simulation.simulation import simulate
from stages.contract.cost import Speed, StepTimes
from stages.contract.item import StageReceipt

MAX_RATE = 100.0  # a second; more tells nothing more
PART_OF_HOPS = 0.2  # what is asked of the machine beside what it can do
HOPS, HOPS_AT_ONCE = 1_500, 24
NO_TIME = 1e6  # asked so often, devices take no time
PROFILING = 1_000  # requests under the load that is to come, of which steps are measured
SETTLING, SETTLING_AT_ONCE = 300, 24
SETTLED_S = 10.0  # then nothing is left of them


@dataclass(frozen=True, slots=True)
class Found:
    """One side under one mix. Seconds. `shares`: of the requests, by pool; `beside`: what was neither queue nor device; `longer_s`: by so
    much a pool's steps were longer than its devices, before; `busy_cores`: of the machine."""

    mix: str
    side: str
    throughput: float
    latencies_s: Sequence[float]
    shares: dict[str, float]
    beside: Delay
    longer_s: Mapping[str, float]
    busy_cores: float

    def percentile_s(self, percent: float) -> float:
        return percentile(self.latencies_s, percent)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A mix, and requests of its kind that come before it, as often."""

    mix: Mix
    before: tuple[Request, ...]

    @classmethod
    def of(cls, mix: Mix, num_before: int) -> _Asked:
        before, requests = mix.requests[:num_before], mix.requests[num_before:]
        later = tuple(replace(request, at_s=request.at_s - before[-1].at_s) for request in requests)
        return cls(replace(mix, requests=later), before)


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--requests", type=int, default=NUM_REQUESTS, help="for each mix and side")
    parser.add_argument("--ours", action="store_true", help="no other sides: only how like it the simulator is")
    given = started(parser)
    quick, count = given.quick, 200 if given.quick else given.requests
    sides = (OURS,) if given.ours else SIDES
    with three_nodes(tuple(SPEEDS)) as nodes:
        rate = asyncio.run(_rate(nodes))
        tell(f"asking {rate:.0f} times a second, {count} requests a mix and side")
        asked = [_Asked.of(mix, min(PROFILING, count)) for mix in mixes(rate, min(PROFILING, count) + count)]
        found = [_measured(name, one, nodes) for one in asked for name in sides]
    by_name = {one.mix.name: one for one in asked}
    simulated = [_simulated(one, by_name[one.mix]) for one in found]
    report = Report(
        "fleet_live_ours" if given.ours else "fleet_live",
        {"speeds": "1 : 3 : 6, two replicas each", "load": LOAD, "rate": round(rate, 1), "requests": count},
    )
    for live, virtual in zip(found, simulated, strict=True):
        _add(report, live, live.side)
        _add(report, virtual, f"{live.side}, simulated")
    report.goals += _goals(found) + _likeness(found, simulated)
    report.goals += _order(found, simulated) if len(sides) > 1 else []
    report.publish(results_folder(quick=quick))


async def _rate(nodes: Nodes) -> float:
    """What is asked a second: a part of the hops that this machine carries."""
    idle = mixes(NO_TIME, HOPS + SETTLING)[0]
    with side(OURS, idle, nodes) as ours:
        await settled(ours.ask, idle.requests[:SETTLING], at_once=SETTLING_AT_ONCE)
        load = await closed_loop(lambda index: ours.ask(idle.requests[index]), HOPS, concurrency=HOPS_AT_ONCE)
    hops = HOPS / load.wall_s
    tell(f"{hops:.0f} calls a second and no more")
    return min(MAX_RATE, PART_OF_HOPS * hops)


def _with_steps_longer(mix: Mix, longer_s: Mapping[str, float]) -> Mix:
    def longer(pool: PacedPool) -> Speed:
        points = ((amount, took_s + longer_s[pool.name]) for amount, took_s in pool.speed.step.points)
        return replace(pool.speed, step=StepTimes(tuple(points)))

    return replace(mix, pools=tuple(replace(pool, speed=longer(pool)) for pool in mix.pools))


def _measured(name: str, asked: _Asked, nodes: Nodes) -> Found:
    tell(f"{asked.mix.name}, {name}")
    with side(name, asked.mix, nodes) as up:
        return asyncio.run(_under_load(name, asked, up))


async def _under_load(name: str, asked: _Asked, up: Side) -> Found:
    await settled(up.ask, asked.before[:SETTLING], at_once=SETTLING_AT_ONCE)
    longer = await up.longer()
    await open_loop(lambda index: up.ask(asked.before[index]), [request.at_s for request in asked.before])
    longer_s = {pool: (after - longer[pool]).each_s for pool, after in (await up.longer()).items()}
    requests = asked.mix.requests
    psutil.cpu_percent()
    load = await open_loop(lambda index: _timed(up.ask, requests[index]), [request.at_s for request in requests])
    busy_cores = psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1)
    pools = Counter(outcome.value[0].device for outcome in load.outcomes)
    beside = [took_s - receipt.queue_s - receipt.run_s for receipt, took_s in (outcome.value for outcome in load.outcomes)]
    return Found(
        asked.mix.name,
        name,
        len(load.outcomes) / load.wall_s,
        load.latencies_s(),
        {pool: count / len(load.outcomes) for pool, count in pools.items()},
        _spread(beside),
        longer_s,
        busy_cores,
    )


def _spread(seconds: Sequence[float]) -> Delay:
    """As a lognormal of the same median and 9th decile."""
    median = max(1e-6, percentile(seconds, 50))
    return Delay(
        median, max(0.0, math.log(max(median, percentile(seconds, 90)) / median) / statistics.NormalDist().inv_cdf(0.9))
    )


def _simulated(live: Found, asked: _Asked) -> Found:
    """The same requests in virtual time, those before them too. Half of what the cluster adds is on the way there."""
    tell(f"{live.mix}, {live.side}, simulated")
    mix = _with_steps_longer(asked.mix, live.longer_s)
    hop = Delay(live.beside.median_s / 2, live.beside.sigma)
    pools = pools_of(mix, has_profile=False)
    fleet = fleet_of([stage_of(mix)], pools, live.side, num_callers=1, ways=Ways(hop=hop))
    begins = asked.before[-1].at_s + SETTLED_S
    before = requests_of(replace(mix, requests=asked.before))
    requests = simulate(fleet, [*before, *requests_of(mix, begins)], router_of(live.side)).requests
    counted = [place for place, at in enumerate(requests.at) if at >= begins]
    places = Counter(requests.pool[place] for place in counted)
    shares = {name: places[at] / len(counted) for at, name in enumerate(requests.pools)}
    took = [requests.end[place] - requests.at[place] for place in counted]
    lasted_s = max(requests.end[place] for place in counted) - begins
    return replace(live, throughput=len(took) / lasted_s, latencies_s=took, shares=shares, busy_cores=0.0)


async def _timed(ask: Ask, request: Request) -> tuple[StageReceipt, float]:
    began = time.monotonic()
    receipt = await ask(request)
    return receipt, time.monotonic() - began


def _add(report: Report, found: Found, side: str) -> None:
    report.add(
        side=side,
        mix=found.mix,
        per_s=round(found.throughput, 1),
        **{f"p{percent}_ms": round(1000 * found.percentile_s(percent)) for percent in (50, 95, 99)},
        **{f"to_{pool}": round(found.shares.get(pool, 0.0), 3) for pool in SPEEDS},
        beside_ms=round(1000 * found.beside.median_s, 1),
        **{f"{pool}_step_longer_ms": round(1000 * seconds, 2) for pool, seconds in found.longer_s.items()},
        busy_cores=round(found.busy_cores, 2),
    )


def _goals(found: Sequence[Found]) -> list[Goal]:
    """Ours against each other side, at the 99th percentile."""
    ours = {one.mix: one for one in found if one.side == OURS}
    return [
        Goal(
            f"{one.mix}: p99 beside {one.side}",
            ours[one.mix].percentile_s(99) / one.percentile_s(99),
            0.7 if one.side == "least outstanding" else 0.6 if one.side == "two choices" else 1.0,
            at_most=True,
        )
        for one in found
        if one.side != OURS
    ]


def _likeness(live: Sequence[Found], simulated: Sequence[Found]) -> list[Goal]:
    """By how much the simulator is off, of what was measured; of ours, in every mix."""
    pairs = [(one, virtual) for one, virtual in zip(live, simulated, strict=True) if one.side == OURS]
    return [
        Goal(f"{one.mix}, simulated: {what} is off by", abs(theirs / measured - 1), bound, at_most=True)
        for one, virtual in pairs
        for what, measured, theirs, bound in (
            ("throughput", one.throughput, virtual.throughput, 0.15),
            *(
                (f"p{percent}", one.percentile_s(percent), virtual.percentile_s(percent), 0.25 if percent == 99 else 0.15)
                for percent in (50, 95, 99)
            ),
        )
    ]


def _order(live: Sequence[Found], simulated: Sequence[Found]) -> list[Goal]:
    """Whether the sides come in the same order, by their 99th percentiles."""

    def order(found: Sequence[Found], mix: str) -> list[str]:
        return [one.side for one in sorted(found, key=lambda one: one.percentile_s(99)) if one.mix == mix]

    names = dict.fromkeys(one.mix for one in live)
    return [
        Goal(f"{mix}: sides in the same order live and simulated", float(order(live, mix) == order(simulated, mix)), 1.0)
        for mix in names
    ]


if __name__ == "__main__":
    main()
