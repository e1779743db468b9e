"""One fault under load: strikes in mid-stream, waits until what was struck is back, and asks again, alone, what went on elsewhere."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.faults.comparing import asked_alone, is_same
from benchmarks.faults.kinds import METRICS, READY, Fault
from benchmarks.faults.load import Load, steady
from benchmarks.faults.outcome import Compared, Struck, concerned, errors, resumed, row
from benchmarks.faults.small_disk import full
from benchmarks.loads.http_client import http_client
from benchmarks.mixed.asked import Asked
from benchmarks.mixed.client import ask, begin
from benchmarks.mixed.requests import Kind, Size, request
from benchmarks.reporting.command import tell
from benchmarks.reporting.report import Value
from benchmarks.servers.parts import Server
from pipelines.commands.stage_rows import Scrape, scrape_of

SETTLE_S, MID_STREAM_S = 120.0, 60.0
PROBE_S = 0.2
FRESH_S = 2.0  # how old Serve's last answer may be where its controller is there
PROBES = Size(tokens=2, steps=2)
PROBE_NUMBERS = 1_000_000  # from there on


@dataclass(frozen=True, slots=True)
class Plan:
    """`warm_s` before, `after_s` after, `calm_s` of the row without a fault. `back_s`: how long is waited for what was struck.
    `compared`: at most so many streams of each kind are asked again."""

    size: Size
    warm_s: float
    after_s: float
    calm_s: float
    back_s: float
    compared: int


@dataclass(frozen=True, slots=True)
class Tried:
    row: dict[str, Value]
    errors: Sequence[str]
    is_back: bool


async def tried(fault: Fault, server: Server, plan: Plan, first: int, disk: Path | None = None) -> Tried:
    """`first`: number of the load's first request; `disk`: of the server, where it has one of its own. Raises `RuntimeError` where the
    load doesn't get going."""
    async with http_client(server.url) as client:
        async with steady(client, plan.size, first) as load:
            await _under_way(load, plan)
            victims = await asyncio.to_thread(fault.victims, server)
            if fault.replaced and not victims:
                raise RuntimeError(f"no process for {fault.what}")
            await load.until(lambda: load.is_mid_stream(Kind.GREEDY) and load.is_mid_stream(Kind.SEEDED), MID_STREAM_S)
            with full(disk) if fault.fills_disk and disk is not None else nullcontext():
                at = time.monotonic()
                strike(fault, victims)
                back_s = await _back(client, fault, server, victims, at, plan)
                until = time.monotonic()
            in_time = await load.until(lambda: not any(one.is_running(at) for one in load.running()), plan.back_s)
            tell(f"{fault.name}: back after {back_s and round(back_s, 1)} s" + ("" if in_time else "; some still wait"))
            await asyncio.sleep(plan.after_s)
        struck = Struck(fault.what, at, back_s)
        compared = await _compared(client, load.asked, struck, until, plan) if back_s is not None else {}
        return Tried(row(struck, load.asked, until, compared), errors(load.asked), back_s is not None)


def strike(fault: Fault, victims: Sequence[psutil.Process]) -> None:
    for process in victims:
        with suppress(ProcessLookupError):
            os.kill(process.pid, fault.by)


async def _under_way(load: Load, plan: Plan) -> None:
    if not await load.until(lambda: all(load.is_answered(kind) for kind in Kind), SETTLE_S):
        raise RuntimeError(f"no answer of every kind in {SETTLE_S:.0f} s: {errors(load.asked)}")
    await asyncio.sleep(plan.warm_s)


async def _back(
    client: httpx.AsyncClient, fault: Fault, server: Server, victims: Sequence[psutil.Process], at: float, plan: Plan
) -> float | None:
    """Seconds since `at`; None: not in time, or there was nothing to come back."""
    if not victims:
        await asyncio.sleep(plan.calm_s)
        return 0.0 if await _is_answered(client, fault.needs) else None
    try:
        async with asyncio.timeout(plan.back_s):
            await _answered(client, fault.needs)
            await _shown(client, fault, server, victims)
            return time.monotonic() - at
    except TimeoutError:
        return None


async def _is_answered(client: httpx.AsyncClient, kind: Kind) -> bool:
    return not (await ask(client, begin(request(kind, PROBE_NUMBERS, PROBES)))).has_failed


async def _answered(client: httpx.AsyncClient, kind: Kind) -> None:
    number = PROBE_NUMBERS + int(time.time() * 1000) % PROBE_NUMBERS
    while True:
        if not (await ask(client, begin(request(kind, number, PROBES)))).has_failed:
            return
        number += 1
        await asyncio.sleep(PROBE_S)


async def _shown(client: httpx.AsyncClient, fault: Fault, server: Server, victims: Sequence[psutil.Process]) -> None:
    before = {process.pid for process in victims}
    while True:
        now = {process.pid for process in await asyncio.to_thread(fault.victims, server)}
        if (now - before or not fault.replaced) and await _tells(client, fault.shows):
            return
        await asyncio.sleep(PROBE_S)


async def _tells(client: httpx.AsyncClient, shows: str) -> bool:
    try:
        if shows == METRICS:
            page = await client.get("/metrics", timeout=10)
            return page.is_success and tells_of_stages(scrape_of(page.text, 0.0))
        if shows == READY:
            page = await client.get("/ready", timeout=10)
            return page.is_success and page.json().get("age_s", 0.0) < FRESH_S
    except httpx.HTTPError:
        return False
    return True


def tells_of_stages(scrape: Scrape) -> bool:
    """Whether the metrics table answers, and has heard of the stages."""
    up = [sample.value for sample in scrape.samples.get("triptych_stage_metrics_up", ())]
    return bool(up) and min(up) == 1 and "triptych_stage_batch_bound_items" in scrape.samples


async def _compared(client: httpx.AsyncClient, asked: Sequence[Asked], struck: Struck, until: float, plan: Plan) -> Compared:
    """Streams that went on elsewhere; where none should have, any."""
    those = concerned(asked, struck, until)
    streams = resumed(those) or [one for one in those if one.request.is_streamed and not one.has_failed and not struck.back_s]
    found: dict[Kind, list[bool]] = {}
    for one in streams:
        same = found.setdefault(one.request.kind, [])
        if len(same) < plan.compared:
            same.append(is_same(one.request.kind, one.told, await asked_alone(client, one.request)))
    return found
