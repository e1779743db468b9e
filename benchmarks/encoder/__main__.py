"""A one-shot stage's batching against `@serve.batch`, both behind a Ray Serve handle, under the same arrivals.

`python -m benchmarks.encoder` (about 6 minutes on 2 cores; `--quick`: about 2, to see that it runs). Two stages: one whose batch
takes 300 ms whatever its size, and ViT-B-32 with random weights. 40 requests, one each 20 ms, batches of at most 16; Ray's timer
is tried at several values, with the model called on the event loop and in a thread, and its best is what we are compared with.
What the best possible batcher could do is computed (`batching_bound.py`).
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from benchmarks.encoder.batching_bound import least_median_s
from benchmarks.encoder.vit_checkpoint import image, save_vit
from benchmarks.loads.arrivals import every
from benchmarks.loads.load import open_loop
from benchmarks.loads.spread import percentile, spread
from benchmarks.paced.stages import Measure, PacedEncoder
from benchmarks.peers.serve_batch import MAX_ITEMS, BatchedStage
from benchmarks.reporting.command import results_folder, start, tell
from benchmarks.reporting.report import Goal, Report, Value
from benchmarks.servers.cluster import MadeReplica, MakeStage, cluster, deployed
from pipelines.cluster.serve_client import ServeStageClient
from stages.checkpoints.checkpoint import Checkpoint, LoadOptions, Source
from stages.contract.item import Item
from stages.contract.limits import BatchLimits
from stages.vision.messages import EmbedInput

RUN_S = 0.3
PERIOD_S, NUM_REQUESTS = 0.02, 40
ALONE_PERIOD_S = 0.7
DEFAULT_TIMER_S = 0.01  # of @serve.batch, in Ray 2.60
TORCH_THREADS = 2
MAX_ONGOING = 64
MAX_PIXELS = 1_000_000
GOAL = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    timers_s: Sequence[float]
    num_alone: int


FULL = Plan(rounds=5, timers_s=(DEFAULT_TIMER_S, 0.05, 0.1, 0.3), num_alone=12)
QUICK = Plan(rounds=1, timers_s=(DEFAULT_TIMER_S, 0.3), num_alone=2)


class Encoder(Protocol):
    """One side."""

    async def encode(self, payload: Any) -> float:
        """The size of the batch that it was in."""
        ...

    async def ping(self) -> None:
        """Has the replica answer something that costs nothing."""
        ...


class Ours:
    def __init__(self, stage: str, handle: Any) -> None:
        self._client, self._stage = ServeStageClient({stage: handle}, {stage: [stage]}), stage
        self._pid = handle.options(method_name="pid")

    async def encode(self, payload: Any) -> float:
        reply = await self._client.call(self._stage, Item("encode", payload))  # no name: nothing is remembered
        return reply.receipt.batch_size

    async def ping(self) -> None:
        await self._pid.remote()


class Theirs:
    def __init__(self, handle: Any, method: str) -> None:
        self._handle, self._method = handle, method

    async def encode(self, payload: Any) -> float:
        _, batch_size = await self._handle.options(method_name=self._method).remote(payload)
        return float(batch_size)

    async def ping(self) -> None:
        await self._handle.options(method_name="ping").remote()


@dataclass(frozen=True, slots=True)
class Measured:
    side: str
    load: str
    latencies_s: Sequence[float]
    batches_a_round: float
    round_s: float  # from the first arrival to the last answer
    longest_silence_s: float

    @property
    def p50_s(self) -> float:
        return percentile(self.latencies_s, 50)

    def row(self, stage: str) -> dict[str, Value]:
        seconds = spread(self.latencies_s)
        return {
            "side": self.side,
            "load": self.load,
            "stage": stage,
            "p50_ms": 1000 * seconds.p50,
            "mean_ms": 1000 * seconds.mean,
            "p99_ms": 1000 * seconds.p99,
            "batches_a_round": self.batches_a_round,
            "longest_silence_ms": 1000 * self.longest_silence_s,
        }


@dataclass(frozen=True, slots=True)
class Subject:
    """A stage to be batched, and what it is sent."""

    name: str
    make: MakeStage
    payloads: Sequence[Any]


async def measured(encoder: Encoder, side: str, subject: Subject, arrivals: Sequence[float], rounds: int) -> Measured:
    tell(f"{subject.name}, {side}: {rounds} rounds")
    await encoder.encode(subject.payloads[0])  # so that the handle knows its replica
    latencies_s: list[float] = []
    num_batches = total_s = 0.0
    for _ in range(rounds):
        load = await open_loop(lambda index: encoder.encode(subject.payloads[index]), arrivals)
        latencies_s += load.latencies_s()
        num_batches += sum(1 / outcome.value for outcome in load.outcomes)
        total_s += load.wall_s
    return Measured(
        side=side,
        load=f"{len(arrivals)}, one each {1000 * (arrivals[1] - arrivals[0]):.0f} ms",
        latencies_s=latencies_s,
        batches_a_round=num_batches / rounds,
        round_s=total_s / rounds,
        longest_silence_s=await longest_silence_s(encoder, subject, arrivals),
    )


async def longest_silence_s(encoder: Encoder, subject: Subject, arrivals: Sequence[float]) -> float:
    """In a round of its own: how long the replica leaves anything else (a health check, another route) without an answer."""
    pings: list[float] = []

    async def ping() -> None:
        while True:
            began = time.monotonic()
            await encoder.ping()
            pings.append(time.monotonic() - began)
            await asyncio.sleep(PERIOD_S)

    pinging = asyncio.create_task(ping())
    await open_loop(lambda index: encoder.encode(subject.payloads[index]), arrivals)
    pinging.cancel()
    await asyncio.gather(pinging, return_exceptions=True)
    return max(pings)


async def crowded(subject: Subject, ours: Any, theirs: Any, plan: Plan) -> list[Measured]:
    """Ours first, then theirs at every timer, on the loop and in a thread."""
    arrivals = every(PERIOD_S, NUM_REQUESTS)
    found = [await measured(Ours(subject.name, ours), "triptych", subject, arrivals, plan.rounds)]
    for timer_s in plan.timers_s:
        await theirs.tune.remote(timer_s)
        for method in ("on_the_loop", "in_a_thread"):
            side = _theirs_name(timer_s, method)
            found.append(await measured(Theirs(theirs, method), side, subject, arrivals, plan.rounds))
    return found


async def alone(subject: Subject, ours: Any, theirs: Any, plan: Plan, best: str) -> list[Measured]:
    """Requests that meet nobody: what the timer that is best under load costs without one."""
    arrivals = every(ALONE_PERIOD_S, plan.num_alone)
    found = [await measured(Ours(subject.name, ours), "triptych", subject, arrivals, 1)]
    for timer_s in plan.timers_s:
        for method in ("on_the_loop", "in_a_thread"):
            side = _theirs_name(timer_s, method)
            if side == best:
                await theirs.tune.remote(timer_s)
                found.append(await measured(Theirs(theirs, method), side, subject, arrivals, 1))
    return found


def _theirs_name(timer_s: float, method: str) -> str:
    default = ", its default" if timer_s == DEFAULT_TIMER_S else ""
    return f"@serve.batch {1000 * timer_s:.0f} ms{default}, {method.replace('_', ' ')}"


def run_subject(subject: Subject, plan: Plan, report: Report) -> None:
    from ray import serve

    batch = BatchLimits(max_items=MAX_ITEMS)
    ours = serve.run(
        deployed(
            MadeReplica,
            (subject.name, subject.make, batch, TORCH_THREADS),
            name=subject.name,
            max_ongoing_requests=MAX_ONGOING,
        ),
        name="ours",
        route_prefix=None,
    )
    crowd, lone = [], []
    theirs = serve.run(
        deployed(BatchedStage, (subject.make, TORCH_THREADS), name="theirs", max_ongoing_requests=MAX_ONGOING),
        name="theirs",
        route_prefix=None,
    )
    crowd = asyncio.run(crowded(subject, ours, theirs, plan))
    best = min(crowd[1:], key=lambda found: found.p50_s)
    if subject.name == PACED:
        lone = asyncio.run(alone(subject, ours, theirs, plan, best.side))
    for app in ("ours", "theirs"):
        serve.delete(app)
    report.notes.append(
        f"{subject.name}: while it batches, a replica leaves a call that costs nothing without an answer for "
        f"{1000 * crowd[0].longest_silence_s:.0f} ms at most here, {1000 * best.longest_silence_s:.0f} ms with {best.side}"
    )
    for found in [*crowd, *lone]:
        report.add(**found.row(subject.name))
    report.goals.append(_goal(subject, crowd[0], best))
    if lone:
        report.notes.append(
            f"{subject.name}: a request that meets nobody takes {1000 * lone[0].p50_s:.0f} ms here and "
            f"{1000 * lone[1].p50_s:.0f} ms with the timer that is best under load"
        )


def _goal(subject: Subject, ours: Measured, best: Measured) -> Goal:
    ratio = ours.p50_s / best.p50_s
    name = f"{subject.name}: p50 against {best.side} (its best)"
    why = "" if ratio <= GOAL else _why(subject, ours, best)
    return Goal(name, ratio, GOAL, at_most=True, why=why)


def _why(subject: Subject, ours: Measured, best: Measured) -> str:
    if subject.name == PACED:
        least_s = least_median_s(every(PERIOD_S, NUM_REQUESTS), RUN_S, MAX_ITEMS)
        return (
            f"out of reach: with batches of {1000 * RUN_S:.0f} ms and at most {MAX_ITEMS}, a batcher that knew all arrivals beforehand "
            f"would have a p50 of {1000 * least_s:.0f} ms at least, {least_s / best.p50_s:.2f} of their best; ours is "
            f"{ours.p50_s / least_s:.2f} times that bound"
        )
    return (
        f"the device is the limit: {NUM_REQUESTS} images come within {1000 * NUM_REQUESTS * PERIOD_S:.0f} ms, and computing them all "
        f"took {1000 * ours.round_s:.0f} ms here in {ours.batches_a_round:.1f} batches, {1000 * best.round_s:.0f} ms there in "
        f"{best.batches_a_round:.1f}; the order of work is all that is left to choose"
    )


PACED, VIT = "paced", "vit-b-32"


def _load_vit(folder: str) -> Any:
    from stages.vision.clip.embedder import ClipEmbedder

    source = Source(folder=folder)
    return ClipEmbedder.load(Checkpoint(source, Path(folder)), LoadOptions(device="cpu", dtype="float32"))


def main() -> None:
    quick = start(__doc__)
    plan = QUICK if quick else FULL
    report = Report("encoder", _settings(plan))
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        save_vit(Path(folder))
        images = [EmbedInput(image=image(seed), max_pixels=MAX_PIXELS) for seed in range(NUM_REQUESTS)]
        with cluster():
            run_subject(Subject(PACED, partial(PacedEncoder, RUN_S), [Measure(b"item")] * NUM_REQUESTS), plan, report)
            run_subject(Subject(VIT, partial(_load_vit, folder), images), plan, report)
    report.publish(results_folder(quick=quick))


def _settings(plan: Plan) -> dict[str, Value]:
    return {
        "arrivals": f"{NUM_REQUESTS}, one each {1000 * PERIOD_S:.0f} ms",
        "rounds": plan.rounds,
        "max_items": MAX_ITEMS,
        "paced": f"{1000 * RUN_S:.0f} ms a batch, whatever its size",
        "vit-b-32": "open_clip, random weights, float32, 224x224 PNGs",
        "torch_threads": TORCH_THREADS,
        "timers_ms": ", ".join(f"{1000 * timer_s:.0f}" for timer_s in plan.timers_s),
    }


if __name__ == "__main__":
    main()
