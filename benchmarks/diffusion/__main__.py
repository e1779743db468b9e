"""Step-level batching of a diffusion model against one request at a time and against static batches.

`python -m benchmarks.diffusion` (about 12 minutes on 2 cores; `--quick`: about 4, to see that it runs).

The demo's painter in float32 on every side, mixed steps and guidance, over HTTP. Measures saturation throughput, latency under
Poisson arrivals at 0.8 of what one-at-a-time serving can take, and what batching can gain at all on this machine
(`unet_curve.py`).
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import numpy as np
from PIL import Image

from benchmarks.diffusion.sides import (
    LITSERVE_TIMEOUT_S,
    MAX_BATCH,
    NUM_REPLICAS,
    STAGE,
    Side,
    one_at_a_time_side,
    static_batch_sides,
    triptych_side,
)
from benchmarks.diffusion.unet_curve import Curve, measure
from benchmarks.loads.arrivals import poisson
from benchmarks.loads.http_client import http_client
from benchmarks.loads.load import Load, closed_loop, open_loop
from benchmarks.loads.spread import spread
from benchmarks.loads.wishes import GUIDANCE, MAX_STEPS, MIN_STEPS, Wish, wishes
from benchmarks.reporting.command import results_folder, start, tell
from benchmarks.reporting.report import Goal, Report, Value
from benchmarks.servers.counters import StageCounts, stage_counts
from stages.checkpoints.checkpoint import Source, resolve

SHARE_OF_CAPACITY = 0.8
THROUGHPUT_GOAL, SHARE_OF_ALLOWED, LATENCY_GOAL = 2.0, 0.9, 0.5
SAME_WITHIN = 2  # of 255: as tests/stages/diffusion compare images of different batches
SATURATION_SEED, ARRIVAL_SEED, OWN_SEED, WARM_UP_SEED = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Plan:
    num_saturating: int
    concurrency: int
    num_arriving: int
    num_warming_up: int
    curve_repeats: int
    torch_threads: int = 2


FULL = Plan(num_saturating=64, concurrency=32, num_arriving=72, num_warming_up=4, curve_repeats=15)
QUICK = Plan(num_saturating=6, concurrency=6, num_arriving=4, num_warming_up=1, curve_repeats=2, torch_threads=1)


@dataclass(frozen=True, slots=True)
class Painted:
    """One side under one load. `counts`: of Triptych's denoiser, during the load."""

    side: Side
    load: str
    wishes: Sequence[Wish]
    found: Load[bytes]
    counts: StageCounts | None = None

    @property
    def images_per_s(self) -> float:
        return len(self.wishes) / self.found.wall_s

    @property
    def steps_per_s(self) -> float:
        return sum(wish.steps for wish in self.wishes) / self.found.wall_s

    @property
    def mean_s(self) -> float:
        return spread(self.found.latencies_s()).mean

    @property
    def busy_share(self) -> float:
        """Of the time that its replicas had."""
        return self.counts.device_s / (NUM_REPLICAS * self.found.wall_s) if self.counts else 0.0

    def row(self) -> dict[str, Value]:
        seconds, counts = spread(self.found.latencies_s()), self.counts
        return {
            "side": self.side.name,
            "load": self.load,
            "images_per_s": self.images_per_s,
            "steps_per_s": self.steps_per_s,
            "mean_s": seconds.mean,
            "p50_s": seconds.p50,
            "p99_s": seconds.p99,
            "requests_per_step": counts.batch_size if counts else None,
            "ms_per_step": 1000 * counts.batch_s if counts else None,
            "device_busy": self.busy_share if counts else None,
        }


class Session:
    """One running server and a client of it."""

    def __init__(self, side: Side, client: httpx.AsyncClient, plan: Plan) -> None:
        self._side, self._client, self._plan = side, client, plan

    async def warm_up(self) -> None:
        for wish in wishes(self._plan.num_warming_up, seed=WARM_UP_SEED):
            await self._side.paint(self._client, wish)

    async def saturated(self) -> Painted:
        asked = wishes(self._plan.num_saturating, seed=SATURATION_SEED)
        tell(f"{self._side.name}: {len(asked)} images, {self._plan.concurrency} at once")
        before = await self._counts()
        found = await closed_loop(
            lambda index: self._side.paint(self._client, asked[index]), len(asked), concurrency=self._plan.concurrency
        )
        return Painted(self._side, f"{self._plan.concurrency} at once", asked, found, await self._counted_since(before))

    async def arriving(self, rate: float, load: str, *, seed: int = ARRIVAL_SEED) -> Painted:
        asked = wishes(self._plan.num_arriving, seed=seed)
        tell(f"{self._side.name}: {len(asked)} images, {load}")
        before = await self._counts()
        arrivals = poisson(rate, len(asked), seed=ARRIVAL_SEED)
        found = await open_loop(lambda index: self._side.paint(self._client, asked[index]), arrivals)
        return Painted(self._side, load, asked, found, await self._counted_since(before))

    async def _counts(self) -> StageCounts | None:
        return await stage_counts(self._client, STAGE) if self._side.is_triptych else None

    async def _counted_since(self, before: StageCounts | None) -> StageCounts | None:
        after = await self._counts()
        return None if before is None or after is None else after.since(before)


def of_one_at_a_time(rate: float) -> str:
    return f"Poisson {rate:.2f}/s (0.8 of one at a time)"


async def one_at_a_time(url: str, side: Side, plan: Plan) -> list[Painted]:
    """Saturated, then under the arrivals that its own throughput sets for everyone."""
    async with http_client(url) as client:
        session = Session(side, client, plan)
        await session.warm_up()
        saturated = await session.saturated()
        rate = SHARE_OF_CAPACITY * saturated.images_per_s
        return [saturated, await session.arriving(rate, of_one_at_a_time(rate))]


async def saturated_only(url: str, side: Side, plan: Plan) -> Painted:
    async with http_client(url) as client:
        session = Session(side, client, plan)
        await session.warm_up()
        return await session.saturated()


async def arriving_only(url: str, side: Side, plan: Plan, rate: float) -> Painted:
    async with http_client(url) as client:
        session = Session(side, client, plan)
        await session.warm_up()
        return await session.arriving(rate, of_one_at_a_time(rate))


async def triptych(url: str, side: Side, plan: Plan, rate: float) -> list[Painted]:
    async with http_client(url) as client:
        session = Session(side, client, plan)
        await session.warm_up()
        saturated = await session.saturated()
        arriving = await session.arriving(rate, of_one_at_a_time(rate))
        own = SHARE_OF_CAPACITY * saturated.images_per_s
        return [saturated, arriving, await session.arriving(own, f"Poisson {own:.2f}/s (0.8 of its own)", seed=OWN_SEED)]


def static_batches(sides: Sequence[Side], plan: Plan, rate: float) -> list[Painted]:
    """Every policy saturated; the quicker one, as asked-for steps are counted, under the arrivals too."""
    saturated = []
    for side in sides:
        with side.serve() as url:
            saturated.append(asyncio.run(saturated_only(url, side, plan)))
    best = max(saturated, key=lambda painted: painted.steps_per_s).side
    with best.serve() as url:
        return [*saturated, asyncio.run(arriving_only(url, best, plan, rate))]


def same_share(found: Painted, reference: Painted) -> float:
    """The share of images that are the reference's within `SAME_WITHIN` levels."""
    pairs = zip(found.found.outcomes, reference.found.outcomes, strict=True)
    return float(np.mean([_difference(one.value, other.value) <= SAME_WITHIN for one, other in pairs]))


def _difference(png: bytes, other: bytes) -> int:
    one, two = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int) for data in (png, other))
    return int(np.abs(one - two).max())


def throughput_goal(ours: Painted, alone: Painted, curve: Curve) -> Goal:
    """Twice, or 0.9 of what the bare forward pass allows where that is less."""
    allowed = curve.allowed(ours.wishes)
    bound = min(THROUGHPUT_GOAL, SHARE_OF_ALLOWED * allowed)
    name = f"throughput against one at a time (the forward pass allows {allowed:.2f})"
    measured = ours.steps_per_s / alone.steps_per_s
    return Goal(name, measured, bound, why="" if measured >= bound else _profile(ours, curve))


def latency_goal(ours: Painted, alone: Painted, curve: Curve) -> Goal:
    measured = ours.mean_s / alone.mean_s
    why = "" if measured <= LATENCY_GOAL else _profile(ours, curve)
    return Goal("mean latency against one at a time, at 0.8 of its capacity", measured, LATENCY_GOAL, at_most=True, why=why)


def _profile(painted: Painted, curve: Curve) -> str:
    """Where the denoiser's time went."""
    counts = painted.counts
    if counts is None:
        return ""
    num_rows = sum(wish.steps * wish.num_model_rows for wish in painted.wishes)
    rows_per_step = num_rows / counts.batches
    bare_s = curve.at(rows_per_step)
    return (
        f"the denoiser's {NUM_REPLICAS} replicas were busy {painted.busy_share:.0%} of the time; a step of {rows_per_step:.1f} model "
        f"rows took {1000 * counts.batch_s:.0f} ms, while the bare U-Net takes {1000 * bare_s:.0f} ms with all cores to itself"
    )


def main() -> None:
    quick = start(__doc__)
    plan = QUICK if quick else FULL
    painter = resolve(Source(demo="painter")).folder

    tell("the bare U-Net")
    curve = measure(painter, torch_threads=plan.torch_threads, repeats=plan.curve_repeats)
    peer, ours = one_at_a_time_side(painter, plan.torch_threads), triptych_side(plan.torch_threads)
    with peer.serve() as url:
        alone = asyncio.run(one_at_a_time(url, peer, plan))
    rate = SHARE_OF_CAPACITY * alone[0].images_per_s
    with ours.serve() as url:
        batched = asyncio.run(triptych(url, ours, plan, rate))
    static = static_batches(static_batch_sides(painter, plan.torch_threads), plan, rate)
    report_on(plan, curve, alone, static, batched).publish(results_folder(quick=quick))


def report_on(
    plan: Plan, curve: Curve, alone: Sequence[Painted], static: Sequence[Painted], ours: Sequence[Painted]
) -> Report:
    report = Report("diffusion", _settings(plan))
    for rows, seconds in curve.seconds.items():
        report.add(side="bare U-Net", load=f"{rows} model rows", ms_per_step=1000 * seconds, model_rows_per_s=rows / seconds)
    for painted in [*alone, *static, *ours]:
        same = same_share(painted, alone[0]) if painted.load == alone[0].load else None
        report.add(**painted.row(), same_images=same)
    report.goals += [throughput_goal(ours[0], alone[0], curve), latency_goal(ours[1], alone[1], curve)]
    best = max(static[:-1], key=lambda painted: painted.steps_per_s)
    report.notes += [
        f"same_images: share of the images that are one-at-a-time's to {SAME_WITHIN} of 255 levels, batched or not",
        "steps_per_s counts the steps that were asked for; litserve, longest runs more, and paints other images",
        f"against the best static batches ({best.side.name}): throughput x {ours[0].steps_per_s / best.steps_per_s:.2f}, "
        f"mean latency x {ours[1].mean_s / static[-1].mean_s:.2f} (under the same arrivals)",
    ]
    return report


def _settings(plan: Plan) -> dict[str, Value]:
    return {
        "painter": "demo, float32, 64x64",
        "torch_threads": plan.torch_threads,
        "steps": f"{MIN_STEPS} to {MAX_STEPS}, uniform",
        "guidance": f"{GUIDANCE} for half of the requests, none for the others",
        "num_saturating": plan.num_saturating,
        "concurrency": plan.concurrency,
        "num_arriving": plan.num_arriving,
        "triptych_max_items": MAX_BATCH,
        "triptych_denoiser_replicas": NUM_REPLICAS,
        "litserve_max_batch_size": MAX_BATCH,
        "litserve_batch_timeout_s": LITSERVE_TIMEOUT_S,
        "curve_repeats": plan.curve_repeats,
    }


if __name__ == "__main__":
    main()
