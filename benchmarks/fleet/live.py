"""`python -m benchmarks.fleet.live`: three mixes of 10,000 requests on a Ray cluster of three nodes whose devices have speeds 1 : 3 : 6
(about 40 minutes on 2 cores; `--quick`: about 5, to see that it runs).

Devices sleep, so that what two cores carry is Ray's hops. How many that are is measured first, and the mixes ask for a part of it: then
what is compared is who chooses which replica, at 0.9 of what the devices can do. Every side is sent the same requests at the same times.
What `queue_s` and `run_s` of a request's receipt leave of its time is what the cluster itself adds; the simulator is told its median.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from benchmarks.command import results_folder, start, tell
from benchmarks.fleet.live_cluster import Nodes, three_nodes
from benchmarks.fleet.live_sides import OURS, SIDES, Ask, settled, side
from benchmarks.fleet.mixes import LOAD, NUM_REQUESTS, SPEEDS, Mix, mixes
from benchmarks.load import closed_loop, open_loop
from benchmarks.report import Goal, Report
from benchmarks.spread import percentile
from stages.contract.item import StageReceipt

MAX_RATE = 100.0  # a second; more tells nothing more
PART_OF_HOPS = 0.3  # what is asked of the machine beside what it can do
HOPS, HOPS_AT_ONCE = 1_500, 24
SETTLING, SETTLING_AT_ONCE = 300, 24


@dataclass(frozen=True, slots=True)
class Found:
    """One side under one mix. Seconds. `shares`: of the requests, by pool; `beside_s`: the median of what was neither queue nor device;
    `busy_cores`: of the machine."""

    mix: str
    side: str
    throughput: float
    latencies_s: Sequence[float]
    shares: dict[str, float]
    beside_s: float
    busy_cores: float

    def percentile_s(self, percent: float) -> float:
        return percentile(self.latencies_s, percent)


def main() -> None:
    quick = start(__doc__)
    with three_nodes(tuple(SPEEDS)) as nodes:
        rate = asyncio.run(_rate(nodes))
        count = 400 if quick else NUM_REQUESTS
        tell(f"asking {rate:.0f} times a second, {count} requests a mix and side")
        found = [_measured(name, mix, nodes) for mix in mixes(rate, count) for name in SIDES]
    report = Report(
        "fleet_live", {"speeds": "1 : 3 : 6, two replicas each", "load": LOAD, "rate": round(rate, 1), "requests": count}
    )
    for one in found:
        _add(report, one)
    report.goals += _goals(found)
    report.publish(results_folder(quick=quick))


async def _rate(nodes: Nodes) -> float:
    """What is asked a second: a part of the hops that this machine carries."""
    idle = mixes(1e6, HOPS + SETTLING)[0]  # devices so fast that nothing is left of them
    with side(OURS, idle, nodes) as ask:
        await settled(ask, idle.requests[:SETTLING], at_once=SETTLING_AT_ONCE)
        load = await closed_loop(lambda index: ask(idle.requests[index]), HOPS, concurrency=HOPS_AT_ONCE)
    hops = HOPS / load.wall_s
    tell(f"{hops:.0f} calls a second and no more")
    return min(MAX_RATE, PART_OF_HOPS * hops)


def _measured(name: str, mix: Mix, nodes: Nodes) -> Found:
    tell(f"{mix.name}, {name}")
    with side(name, mix, nodes) as ask:
        return asyncio.run(_under_load(name, mix, ask))


async def _under_load(name: str, mix: Mix, ask: Ask) -> Found:
    await settled(ask, mix.requests[:SETTLING], at_once=SETTLING_AT_ONCE)
    psutil.cpu_percent()
    load = await open_loop(lambda index: _timed(ask, mix, index), [request.at_s for request in mix.requests])
    busy_cores = psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1)
    pools = Counter(outcome.value[0].device for outcome in load.outcomes)
    beside = [took_s - receipt.queue_s - receipt.run_s for receipt, took_s in (outcome.value for outcome in load.outcomes)]
    return Found(
        mix.name,
        name,
        len(load.outcomes) / load.wall_s,
        load.latencies_s(),
        {pool: count / len(load.outcomes) for pool, count in pools.items()},
        percentile(beside, 50),
        busy_cores,
    )


async def _timed(ask: Ask, mix: Mix, index: int) -> tuple[StageReceipt, float]:
    began = time.monotonic()
    receipt = await ask(mix.requests[index])
    return receipt, time.monotonic() - began


def _add(report: Report, found: Found) -> None:
    report.add(
        side=found.side,
        mix=found.mix,
        per_s=round(found.throughput, 1),
        **{f"p{percent}_ms": round(1000 * found.percentile_s(percent)) for percent in (50, 95, 99)},
        **{f"to_{pool}": round(found.shares.get(pool, 0.0), 3) for pool in SPEEDS},
        beside_ms=round(1000 * found.beside_s, 1),
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


if __name__ == "__main__":
    main()
