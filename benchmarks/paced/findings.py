"""What a paced server's time went into, beside its steps: per request, per token, between steps, and until a row is freed."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.loads.http_client import http_client
from benchmarks.loads.spread import Spread, spread
from benchmarks.paced.loads import NEXT_SEED, Alone, Gone, Streamed, alone, leaving, saturating
from benchmarks.paced.stages import read_steps
from benchmarks.paced.steps import Line, StepHistory, device_s, gaps_s, line_through
from benchmarks.servers.server import module, port, serving

STEP_S, MAX_ROWS = 0.05, 8
SETTLED_S = 1.0


@dataclass(frozen=True, slots=True)
class PacedPlan:
    num_short: int
    num_long: int
    num_saturating: int
    num_leaving: int
    short_tokens: int = 8
    long_tokens: int = 64
    saturating_tokens: int = 40
    saturating_at_once: int = 2 * MAX_ROWS
    leaving_at_once: int = 4


@dataclass(frozen=True, slots=True)
class Found:
    """All of one form of Triptych. Seconds. `beside`: wall time less steps of a request alone, as a line over its tokens."""

    form: str
    beside: Line
    step_s: float
    busy_share: float
    rows_a_step: float
    gap: Spread
    delivery: Spread
    until_freed: Spread
    num_left: int


@dataclass(frozen=True, slots=True)
class _Loads:
    short: Sequence[Alone]
    long: Sequence[Alone]
    crowd: Sequence[Streamed]
    gone: Sequence[Gone]


def find(form: str, plan: PacedPlan) -> Found:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        log = Path(folder) / "steps.txt"
        with _served(form, log) as url:
            loads = asyncio.run(_loaded(url, plan))
        return _found(form, plan, loads, StepHistory(read_steps(log)))


def _served(form: str, log: Path) -> AbstractContextManager[str]:
    at = port()
    command = module("benchmarks.paced.server", form=form, port=at, log=log, step_s=STEP_S, max_rows=MAX_ROWS)
    return serving(command, port=at, ready="/ready")


async def _loaded(url: str, plan: PacedPlan) -> _Loads:
    async with http_client(url) as client:
        await _warm_up(client)
        short = await alone(client, count=plan.num_short, num_tokens=plan.short_tokens, first_seed=NEXT_SEED)
        long = await alone(client, count=plan.num_long, num_tokens=plan.long_tokens, first_seed=2 * NEXT_SEED)
        crowd = await saturating(
            client,
            count=plan.num_saturating,
            concurrency=plan.saturating_at_once,
            num_tokens=plan.saturating_tokens,
            first_seed=3 * NEXT_SEED,
        )
        gone = await leaving(
            client, count=plan.num_leaving, concurrency=plan.leaving_at_once, step_s=STEP_S, first_seed=4 * NEXT_SEED
        )
        await asyncio.sleep(SETTLED_S)
        return _Loads(short, long, crowd, gone)


async def _warm_up(client: httpx.AsyncClient) -> None:
    await alone(client, count=3, num_tokens=2, first_seed=0)
    await saturating(client, count=MAX_ROWS, concurrency=MAX_ROWS, num_tokens=2, first_seed=100)


def _found(form: str, plan: PacedPlan, loads: _Loads, history: StepHistory) -> Found:
    crowd_seeds = {one.seed for one in loads.crowd}
    full = [step for step in history.steps if len(crowd_seeds & set(step.rows)) == MAX_ROWS]
    began, ended = full[0].began, max(one.sent_at for one in loads.crowd)  # after that, rows run out of successors
    steady = history.within(began, ended)
    return Found(
        form=form,
        beside=_beside(plan, loads, history),
        step_s=device_s(history.steps) / len(history.steps),
        busy_share=history.busy_share(began, ended),
        rows_a_step=statistics.mean(len(step.rows) for step in steady),
        gap=spread(gaps_s(steady)),
        delivery=spread(_delivery_s(loads.crowd, history)),
        until_freed=spread(until_freed_s(loads.gone, history)),
        num_left=len(loads.gone),
    )


def _beside(plan: PacedPlan, loads: _Loads, history: StepHistory) -> Line:
    rows = history.of_rows()

    def beside_s(requests: Sequence[Alone]) -> float:
        return statistics.median(one.wall_s - device_s(rows[one.seed]) for one in requests)

    return line_through(plan.short_tokens, beside_s(loads.short), plan.long_tokens, beside_s(loads.long))


def _delivery_s(crowd: Sequence[Streamed], history: StepHistory) -> list[float]:
    """From the end of a token's step to its arrival at the client."""
    rows = history.of_rows()
    return [moment - rows[one.seed][token - 1].ended for one in crowd for token, moment in one.came_at.items()]


def until_freed_s(gone: Sequence[Gone], history: StepHistory) -> list[float]:
    """From a client's leaving to the end of its row's last step; 0 where that step had ended before."""
    rows = history.of_rows()
    return [max(0.0, rows[one.seed][-1].ended - one.left_at) for one in gone]
