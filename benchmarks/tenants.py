"""`python -m benchmarks.tenants`: what one tenant feels of another that asks for ten times its share (about 5 minutes on 2 cores).

Two tenants of one language model, whose steps take a known time and cost nothing (`paced/server.py`, on Ray, with keys): half of what it
answers is each one's share. One asks for 0.6 of its share all the time, at random moments; the other for its share, and then for ten times
that. Both times are measured in turn, twice, with the same requests of the first. Decides loads; who is refused asks no more. Asked with
aiohttp: httpx looks through all its connections for each request, and is itself what takes longer as soon as some hundreds are open.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import aiohttp

from benchmarks.loads.arrivals import poisson
from benchmarks.loads.load import open_loop
from benchmarks.loads.spread import spread
from benchmarks.paced.server import MODEL, RAY, key_of
from benchmarks.reporting.command import results_folder, start, tell
from benchmarks.reporting.report import Goal, Report
from benchmarks.servers.server import module, port, serving

FEW, MANY = "few", "many"
STEP_S, MAX_ROWS, NUM_TOKENS = 0.05, 8, 16
CAPACITY = MAX_ROWS / (STEP_S * NUM_TOKENS)
SHARE = CAPACITY / 2
PART, TIMES = 0.6, 10.0
DEADLINE_S = 10.0
WORSE = 1.2
CHAT = "/v1/chat/completions"
SECRET = {"TRIPTYCH_BENCHMARK_SECRET": "known to everybody who reads this"}


@dataclass(slots=True)
class Side:
    """What became of both tenants' requests, while the other asked for so many times its share. Seconds."""

    times: float
    took: list[float] = field(default_factory=list)
    few: Counter[int] = field(default_factory=Counter)
    many: Counter[int] = field(default_factory=Counter)


def main() -> None:
    quick = start(__doc__)
    load_s, rounds = (5.0, 1) if quick else (60.0, 2)
    sides = [Side(1.0), Side(TIMES)]
    with _served() as url:
        asyncio.run(_measured(url, sides, load_s, rounds))
    _report(sides, load_s * rounds).publish(results_folder(quick=quick))


@contextmanager
def _served() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        at, log = port(), Path(folder) / "steps.txt"
        command = module(
            "benchmarks.paced.server",
            form=RAY,
            port=at,
            log=log,
            step_s=STEP_S,
            max_rows=MAX_ROWS,
            default_request_s=DEADLINE_S,
        )
        with serving([*command, "--tenants", FEW, MANY], port=at, ready="/ready", env=SECRET) as url:
            yield url


async def _measured(url: str, sides: Sequence[Side], load_s: float, rounds: int) -> None:
    async with _client(url, FEW) as few, _client(url, MANY) as many:
        await _asked(few, PART * SHARE, 5.0, seed=0)  # what it takes is known from then on
        for number in range(rounds):
            for side in sides:
                tell(f"the other asks for {side.times:g} times its share")
                (took, of_few), (_, of_many) = await asyncio.gather(
                    _asked(few, PART * SHARE, load_s, seed=1 + number),
                    _asked(many, side.times * SHARE, load_s, seed=100 + number),
                )
                side.took += took
                side.few += of_few
                side.many += of_many


def _client(url: str, tenant: str) -> aiohttp.ClientSession:
    headers = {"authorization": f"Bearer {key_of(tenant)}"}
    return aiohttp.ClientSession(url, headers=headers, connector=aiohttp.TCPConnector(limit=0))


async def _asked(client: aiohttp.ClientSession, rate: float, load_s: float, *, seed: int) -> tuple[list[float], Counter[int]]:
    """How long what was answered took, and how many ended with which status."""

    async def send(index: int) -> int:
        messages = [{"role": "user", "content": f"Request {seed}.{index}: count, please."}]
        body = {"model": MODEL, "messages": messages, "seed": 1000 * seed + index, "max_tokens": NUM_TOKENS}
        async with client.post(CHAT, json=body) as answer:
            await answer.read()
            return answer.status

    load = await open_loop(send, poisson(rate, round(rate * load_s), seed=seed))
    took = [outcome.latency_s for outcome in load.outcomes if outcome.value == HTTPStatus.OK]
    return took, Counter(outcome.value for outcome in load.outcomes)


def _report(sides: Sequence[Side], seconds: float) -> Report:
    report = Report(
        "tenants",
        {
            "step_s": STEP_S,
            "rows": MAX_ROWS,
            "tokens": NUM_TOKENS,
            "share_per_s": SHARE,
            "asks_of_its_share": PART,
            "deadline_s": DEADLINE_S,
            "seconds": seconds,
        },
    )
    for side in sides:
        took = spread(side.took)
        report.add(
            other_asks=f"{side.times:g} times its share",
            requests=side.few.total(),
            answered=side.few[HTTPStatus.OK],
            p50_s=took.p50,
            p99_s=took.p99,
            others=side.many.total(),
            others_answered=side.many[HTTPStatus.OK],
            others_refused=side.many[HTTPStatus.TOO_MANY_REQUESTS],
            others_late=side.many[HTTPStatus.GATEWAY_TIMEOUT],
        )
    alone, beside = sides
    asked, answered = beside.few.total(), beside.few[HTTPStatus.OK]
    report.goals = [
        Goal(
            "p99 beside ten times a share / beside a share",
            spread(beside.took).p99 / spread(alone.took).p99,
            WORSE,
            at_most=True,
        ),
        Goal("part of its requests that are answered", answered / asked, 1.0),
    ]
    return report


if __name__ == "__main__":
    main()
