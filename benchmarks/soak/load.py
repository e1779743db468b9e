"""The soak's load: how much a server carries of a mix, and then more than that, for as long as is wanted; and a replica killed a minute."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import httpx
import psutil

from benchmarks.loads.arrivals import poisson
from benchmarks.loads.load import closed_loop, open_loop
from benchmarks.mixed.client import ask, begin
from benchmarks.mixed.requests import Kind, Request, Size, mixed
from benchmarks.reporting.command import tell
from benchmarks.servers.parts import Server
from benchmarks.servers.processes import command_line
from benchmarks.soak.growth import REPLICA, whose
from benchmarks.soak.requests import REFUSED, Sent

SHARES: Mapping[Kind, float] = {
    Kind.GREEDY: 2,
    Kind.SEEDED: 2,
    Kind.IMAGE_CHAT: 2,
    Kind.PAINTING: 2,
    Kind.EMBEDDING: 2,
}
AT_ONCE = 16  # as many as fill both the LLM's slots and the painter's batch


async def capacity(client: httpx.AsyncClient, size: Size, count: int, *, seed: int) -> float:
    """Requests a second that are answered where `AT_ONCE` clients ask without a pause. Raises `RuntimeError` where one has no answer."""
    asked = mixed(count, SHARES, size, seed=seed)

    async def send(index: int) -> None:
        one = await ask(client, begin(asked[index]))
        if one.has_failed:
            raise RuntimeError(f"while capacity was measured, {one.request.kind}: {one.error}")

    load = await closed_loop(send, count, concurrency=AT_ONCE)
    return count / load.wall_s


async def overloaded(client: httpx.AsyncClient, requests: Sequence[Request], rate: float, *, seed: int) -> list[Sent]:
    """Every request at its time; who is refused asks again once, after the time it was told."""

    async def send(index: int) -> Sent:
        first = await ask(client, begin(requests[index]), again=False)
        if first.status not in REFUSED or first.retry_after_s is None:
            return Sent(first)
        await asyncio.sleep(first.retry_after_s)
        return Sent(first, await ask(client, begin(requests[index]), again=False))

    load = await open_loop(send, poisson(rate, len(requests), seed=seed))
    return [outcome.value for outcome in load.outcomes]


async def killing(server: Server, every_s: float, *, seed: int, killed: list[str]) -> None:
    """Ends a replica by lot every so often, and tells which in `killed`, until it is cancelled."""
    draw, next_at = random.Random(seed), time.monotonic()
    while True:
        next_at += every_s
        await asyncio.sleep(max(0.0, next_at - time.monotonic()))
        found = await asyncio.to_thread(_all_replicas, server)
        if not found:
            continue
        name, process = draw.choice(found)
        tell(f"kill -9 of {name}")
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
            killed.append(name)


def _all_replicas(server: Server) -> list[tuple[str, psutil.Process]]:
    """With the names of their deployments, in an order that doesn't depend on their numbers."""
    found = [(whose(command_line(process))[1], process) for process in server.named(REPLICA)]
    return sorted(found, key=lambda each: each[0])
