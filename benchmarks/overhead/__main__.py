"""What Triptych costs beside the models.

`python -m benchmarks.overhead` (about 5 minutes on 2 cores; `--quick`: about 2, to see that it runs).

1. A language model whose step takes 50 ms and nothing else (`benchmarks/paced/`), behind the whole HTTP path, over Ray and in one process:
   time outside steps per request and per token, the device's share of the time at saturation, and how soon a row is freed whose
   client went away in mid-stream.
2. The shipped configuration under `triptych serve`, one request at a time, each stage in a deployment of its own and all of them in
   the HTTP surface's replica: wall time less the run times of its receipt, beside what Ray Serve alone takes for as many hops that
   do nothing.
3. A call of one deployment by another that does nothing, by each way that there is, by the size of the answer.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.loads.http_client import http_client
from benchmarks.loads.spread import percentile
from benchmarks.overhead.beside_models import NUM_STEPS, NUM_TOKENS, Breakdown, Kind, kinds, measured, median_parts_s
from benchmarks.overhead.crossings import Crossing, crossings
from benchmarks.paced.findings import MAX_ROWS, STEP_S, Found, PacedPlan, find
from benchmarks.paced.server import ONE_PROCESS, RAY
from benchmarks.peers.ray_noop import RayFloor
from benchmarks.peers.ray_noop import floor as ray_floor
from benchmarks.reporting.command import results_folder, start, tell
from benchmarks.reporting.report import Goal, Report, Value
from benchmarks.servers import triptych

BUSY_GOAL = 0.95
BESIDE_GOAL_MS = 10.0
FREED_GOAL_S = STEP_S + 0.02
APART, TOGETHER = "stages apart", "one replica"


@dataclass(frozen=True, slots=True)
class Plan:
    paced: PacedPlan
    num_requests: int  # of each kind, one at a time
    num_nothing: int  # of each of Ray's own
    num_warming_up: int


FULL = Plan(
    PacedPlan(num_short=20, num_long=8, num_saturating=96, num_leaving=100), num_requests=40, num_nothing=200, num_warming_up=5
)
QUICK = Plan(
    PacedPlan(num_short=3, num_long=2, num_saturating=24, num_leaving=8), num_requests=3, num_nothing=10, num_warming_up=1
)


Beside = list[tuple[Kind, list[Breakdown]]]


def _beside(config: triptych.Config, plan: Plan) -> Beside:
    with triptych.served(config) as url:
        return asyncio.run(_asked(url, plan))


async def _asked(url: str, plan: Plan) -> Beside:
    count = plan.num_requests + plan.num_warming_up
    async with http_client(url) as client:
        return [
            (kind, await measured(client, kind, count=plan.num_requests, num_warming_up=plan.num_warming_up))
            for kind in kinds(count)
        ]


def main() -> None:
    quick = start(__doc__)
    plan = QUICK if quick else FULL
    paced = []
    for form in (RAY, ONE_PROCESS):
        tell(f"paced steps, {form}")
        paced.append(find(form, plan.paced))
    tell("Ray Serve alone")
    floor = asyncio.run(ray_floor(count=plan.num_nothing))
    shipped = triptych.shipped_config()
    tell("from one deployment to another")
    crossed = crossings(count=plan.num_nothing)
    beside = {}
    for placement, config in ((APART, shipped), (TOGETHER, triptych.in_one_replica(shipped, torch_threads=2))):
        tell(f"triptych serve, {placement}")
        beside[placement] = _beside(config, plan)
    report = Report("overhead", _settings(plan))
    for one in paced:
        _add_paced(report, one)
    _add_floor(report, floor)
    _add_crossings(report, crossed)
    for placement, found in beside.items():
        for kind, requests in found:
            _add_beside(report, placement, kind, requests, floor)
    report.publish(results_folder(quick=quick))


def _add_paced(report: Report, found: Found) -> None:
    side = f"paced, {found.form}"
    report.add(side=side, load="1 at once", measure="beside steps, per request", median_ms=1000 * found.beside.fixed)
    report.add(side=side, load="1 at once", measure="beside steps, per token", median_ms=1000 * found.beside.each)
    report.add(side=side, load="saturated", measure="device busy", share=found.busy_share, rows_a_step=found.rows_a_step)
    for name, seconds in (("between steps", found.gap), ("end of step to client", found.delivery)):
        report.add(side=side, load="saturated", measure=name, median_ms=1000 * seconds.p50, p99_ms=1000 * seconds.p99)
    freed = found.until_freed
    report.add(
        side=side,
        load=f"{found.num_left} leave",
        measure="client gone to row freed",
        median_ms=1000 * freed.p50,
        p99_ms=1000 * freed.p99,
    )
    report.goals += [_busy_goal(found), _freed_goal(found)]


def _busy_goal(found: Found) -> Goal:
    why = (
        f"between two steps of {1000 * found.step_s:.1f} ms lie {1000 * found.gap.mean:.2f} ms (p99 {1000 * found.gap.p99:.2f}); "
        f"{found.rows_a_step:.1f} rows a step"
    )
    missed = found.busy_share < BUSY_GOAL
    return Goal(f"{found.form}: device busy at saturation", found.busy_share, BUSY_GOAL, why=why if missed else "")


def _freed_goal(found: Found) -> Goal:
    p99_s = found.until_freed.p99
    why = (
        f"half of the rows are freed within {1000 * found.until_freed.p50:.0f} ms; the signal may come right after a step has begun, "
        f"so what is over {1000 * found.step_s:.0f} ms is its way"
    )
    return Goal(
        f"{found.form}: client gone to row freed, p99, seconds",
        p99_s,
        FREED_GOAL_S,
        at_most=True,
        why=why if p99_s > FREED_GOAL_S else "",
    )


def _add_floor(report: Report, floor: RayFloor) -> None:
    for name, seconds in (("HTTP", floor.http_s), ("call", floor.call_s), ("stream of one", floor.stream_s)):
        report.add(side="Ray Serve alone", load="1 at once", measure=name, median_ms=1000 * seconds)


def _add_crossings(report: Report, found: Sequence[Crossing]) -> None:
    for one in found:
        median_ms, cpu_ms = 1000 * one.seconds, 1000 * one.cpu_s
        report.add(side=one.way, load="1 at once", measure=f"answer of {one.size}", median_ms=median_ms, cpu_ms=cpu_ms)


def _add_beside(report: Report, placement: str, kind: Kind, requests: Sequence[Breakdown], floor: RayFloor) -> None:
    side = f"{placement}, {kind.name}"
    beside_ms = [1000 * one.beside_s for one in requests]
    median_ms = statistics.median(beside_ms)
    report.add(
        side=side,
        load="1 at once",
        measure="wall time less run times",
        median_ms=median_ms,
        p99_ms=percentile(beside_ms, 99),
        wall_ms=1000 * statistics.median(one.wall_s for one in requests),
    )
    device_ms = 1000 * statistics.median(one.beside_device_s for one in requests)
    report.add(side=side, load="1 at once", measure="wall time less device time", median_ms=device_ms)
    parts = median_parts_s(requests)
    for name, seconds in parts.items():
        report.add(side=side, load="1 at once", measure=f"of it: {name}", median_ms=1000 * seconds)
    alone_s = kind.floor_s(floor) if placement == APART else floor.http_s
    why = f"{_largest(parts)}; Ray Serve alone takes {1000 * alone_s:.1f} ms for its HTTP and hops"
    missed = median_ms > BESIDE_GOAL_MS
    report.goals.append(
        Goal(f"{side}: ms beside the models, median", median_ms, BESIDE_GOAL_MS, at_most=True, why=why if missed else "")
    )


def _largest(parts: Mapping[str, float]) -> str:
    ranked = sorted(parts.items(), key=lambda part: -part[1])[:4]
    return "medians: " + ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in ranked)


def _settings(plan: Plan) -> dict[str, Value]:
    paced = plan.paced
    return {
        "step_ms": 1000 * STEP_S,
        "max_rows": MAX_ROWS,
        "alone": f"{paced.num_short} of {paced.short_tokens} tokens, {paced.num_long} of {paced.long_tokens}",
        "saturated": f"{paced.num_saturating} of {paced.saturating_tokens} tokens, {paced.saturating_at_once} at once, streamed",
        "leaving": f"{paced.num_leaving}, {paced.leaving_at_once} at once",
        "beside_models": f"{plan.num_requests} of each kind; {NUM_TOKENS} tokens, {NUM_STEPS} steps with guidance",
    }


if __name__ == "__main__":
    main()
