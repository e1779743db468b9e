"""`python -m benchmarks.soak`: what a served Triptych holds and answers when it is asked for more than it can carry, for `--minutes` (30),
while a replica is killed each minute (`--quick`: 3 minutes, to see that it runs).

The demo's models, one replica of each stage. First how much of a mix of chats, paintings and embeddings it answers; then 1.2 times as much,
at random moments. Who is refused asks once more after the time that `Retry-After` told. At the end nobody asks, and nothing may be in hand.
Of every process that lived long enough: memory, open files and threads, as lines through what was seen after its first minutes, by when
the caches, which are small here, are full. Of what runs on event loops: how much before the load and after it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import httpx
import redis

from benchmarks.loads.http_client import http_client
from benchmarks.mixed.requests import Size, mixed
from benchmarks.mixed.server import one_of_each
from benchmarks.reporting.command import described, results_folder, started, tell
from benchmarks.reporting.report import Goal, Report
from benchmarks.servers.counters import REPORTED_AFTER_S
from benchmarks.servers.parts import Server
from benchmarks.soak.claims import standing
from benchmarks.soak.growth import Grown, Owner, in_hand, tasks
from benchmarks.soak.load import SHARES, capacity, killing, overloaded
from benchmarks.soak.requests import Sent, by_minute, refusals
from benchmarks.soak.watch import Watch
from pipelines.commands.stage_rows import Scrape, scrape_of

APPLICATION = "soak"
TIMES = 1.2
DEADLINE_S = 20.0  # of a request: what waits longer is refused, or the line would grow to the end
PATIENCE_S = 300.0  # of who measures what is carried: nothing is to be refused then
KILL_EVERY_S, LOOK_EVERY_S = 60.0, 5.0
CACHE_BYTES = 32 * 2**20
IDLE_S = 180.0
MIN_MINUTES_OF_SLOPES = 10  # less says nothing of a slope


@dataclass(frozen=True, slots=True)
class Plan:
    """`least_s`: how long a process must have been there after its first `warm_s` to be told of."""

    minutes: float
    size: Size
    num_for_capacity: int
    warm_s: float
    least_s: float


@dataclass(frozen=True, slots=True)
class Found:
    """`left`: what was in hand when nobody asked any more, by gauge; `num_claims` None: Redis didn't answer. `tasks`: on the event loops of
    replicas that were there before and after."""

    capacity: float
    began: float
    sent: Sequence[Sent]
    killed: Sequence[str]
    survivors: Sequence[Grown]
    left: Mapping[str, float]
    num_claims: int | None
    tasks: Mapping[str, tuple[float, float]]


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--minutes", type=float, default=None, help="of the load (30; quick: 3)")
    given = started(parser)
    plan = _plan(given.minutes or (3.0 if given.quick else 30.0), quick=given.quick)
    with one_of_each(APPLICATION, memory_bytes=CACHE_BYTES, default_request_s=DEADLINE_S) as server:
        found = asyncio.run(_soaked(server, plan))
    told(found, plan).publish(results_folder(quick=given.quick))


def _plan(minutes: float, *, quick: bool) -> Plan:
    seconds = 60 * minutes
    size = Size(tokens=16, steps=6) if quick else Size(tokens=32, steps=12)
    return Plan(minutes, size, 40 if quick else 160, warm_s=min(240.0, seconds / 6), least_s=min(300.0, seconds / 4))


async def _soaked(server: Server, plan: Plan) -> Found:
    async with http_client(server.url) as client, http_client(server.url) as patient:
        patient.headers["x-request-timeout-seconds"] = f"{PATIENCE_S:g}"
        await capacity(patient, plan.size, plan.num_for_capacity // 4, seed=0)  # what is loaded late is loaded then
        most = await capacity(patient, plan.size, plan.num_for_capacity, seed=1)
        tell(f"{most:.2f} requests a second and no more")
        before = await _idle(client)
        count = math.ceil(TIMES * most * 60 * plan.minutes)
        requests = mixed(count, SHARES, plan.size, seed=2, first=100_000)
        killed: list[str] = []
        watch = Watch(server)
        beside = [
            asyncio.create_task(watch.keep_looking(LOOK_EVERY_S)),
            asyncio.create_task(killing(server, KILL_EVERY_S, seed=3, killed=killed)),
        ]
        began = time.monotonic()
        try:
            sent = await overloaded(client, requests, TIMES * most, seed=4)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        tell("nobody asks any more")
        after = await _idle(client)
        survivors = await asyncio.to_thread(watch.survivors, warm_s=plan.warm_s, least_s=plan.least_s)
    return Found(most, began, sent, killed, survivors, in_hand(after), _claims(), tasks(before, after))


async def _idle(client: httpx.AsyncClient) -> Scrape:
    """Once nothing is in hand, or after `IDLE_S`. Raises `RuntimeError` where the metrics page isn't had."""
    deadline, scrape = time.monotonic() + IDLE_S, None
    while time.monotonic() < deadline:
        await asyncio.sleep(REPORTED_AFTER_S)
        with suppress(httpx.HTTPError):
            page = await client.get("/metrics", timeout=10)
            scrape = scrape_of(page.text, time.monotonic()) if page.is_success else scrape
        if scrape is not None and not in_hand(scrape):
            return scrape
    if scrape is None:
        raise RuntimeError(f"/metrics did not answer in {IDLE_S:.0f} s")
    return scrape


def _claims() -> int | None:
    try:
        return standing(APPLICATION)
    except redis.RedisError:
        return None


def told(found: Found, plan: Plan) -> Report:
    rate, size = TIMES * found.capacity, plan.size
    settings = {"minutes": plan.minutes, "capacity": round(found.capacity, 3), "rate": round(rate, 3)}
    report = Report("soak", {**settings, "tokens": size.tokens, "steps": size.steps, "deadline_s": DEADLINE_S})
    minutes = by_minute(found.sent, found.began, plan.minutes)
    for row in minutes:
        report.add(**row)
    report.add(side="refusals", load="all", **refusals(found.sent))
    for one in found.survivors:
        report.add(
            side=one.owner.value,
            load=f"{one.name} ({one.minutes:.0f} minutes)",
            rss_mib=round(one.rss_mib),
            mib_a_minute=round(one.mib_a_minute, 3),
            files=one.num_files,
            files_a_minute=round(one.files_a_minute, 3),
            threads=one.num_threads,
            threads_a_minute=round(one.threads_a_minute, 3),
        )
    for name, (before, after) in found.tasks.items():
        report.add(side="event loop", load=name, tasks_before=before, tasks_after=after)
    report.notes.append(f"killed: {', '.join(found.killed) or 'none'}")
    report.notes += [f"in hand when nobody asks: {name} {value:g}" for name, value in found.left.items()]
    report.goals = goals(found, [float(str(row["goodput"])) for row in minutes], plan.minutes)
    return report


def goals(found: Found, goodput: Sequence[float], minutes: float) -> list[Goal]:
    """`goodput`: by minute."""
    ours = [one for one in found.survivors if one.owner is Owner.OURS]
    half = len(goodput) // 2
    goals = [
        Goal("in hand when nobody asks", sum(found.left.values()), 0.0, at_most=True),
        Goal(
            "claims that stand when nobody asks", math.inf if found.num_claims is None else found.num_claims, 0.0, at_most=True
        ),
        Goal("goodput / capacity", sum(goodput) / len(goodput) / found.capacity, 0.7),
    ]
    if half:
        first, last = (sum(part) / len(part) for part in (goodput[:half], goodput[-half:]))
        goals.append(Goal("goodput, last half / first half", last / first if first else 0.0, 0.9))
    again = refusals(found.sent)
    if again["asked_again"]:
        goals.append(
            Goal("let in after Retry-After, share", float(str(again["let_in"])) / float(str(again["asked_again"])), 0.9)
        )
    if ours and minutes >= MIN_MINUTES_OF_SLOPES:
        goals += [
            Goal("MiB a minute, the most of ours", max(one.mib_a_minute for one in ours), 1.0, at_most=True),
            Goal("open files a minute, the most of ours", max(one.files_a_minute for one in ours), 0.5, at_most=True),
            Goal("threads a minute, the most of ours", max(one.threads_a_minute for one in ours), 0.5, at_most=True),
        ]
    return goals


if __name__ == "__main__":
    main()
