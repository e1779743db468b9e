"""`python -m benchmarks.streams`: what it costs to tell many answers as they come (about 4 minutes on 2 cores; on a quiet machine).

A language model whose step takes 20 ms and nothing else (`benchmarks/paced/`), behind the whole HTTP path over Ray: so many answers at
once, whole and streamed, in turns. Tokens a second beside what the steps allow, how long a client hears nothing, and processor time a
token by process. Once as `triptych serve` does, and once as on a cluster, where Serve's proxy is told by way of Ray's objects instead of
gRPC (ARCHITECTURE.md says why). Decides loads.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cache.prompts import CHAT
from benchmarks.loads.http_client import events, http_client, post
from benchmarks.loads.load import closed_loop
from benchmarks.loads.spread import percentile
from benchmarks.mixed.server import new_mark
from benchmarks.paced.server import MODEL, RAY
from benchmarks.reporting.command import results_folder, start, tell
from benchmarks.reporting.report import Goal, Report
from benchmarks.servers.parts import MARK, Server
from benchmarks.servers.server import module, port, serving

STEP_S = 0.02
LOADS = (16, 64)
TRANSPORTS: Mapping[str, Mapping[str, str]] = {
    "triptych serve": {"RAY_SERVE_PROXY_USE_GRPC": "1", "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1)},
    "cluster": {"RAY_SERVE_PROXY_USE_GRPC": "0"},
}
PROCESSES = {
    "LLM's replica": "ServeReplica:triptych:llm",
    "HTTP replica": "ServeReplica:triptych:ingress",
    "proxy": "ProxyActor",
}


@dataclass(frozen=True, slots=True)
class Told:
    """A load. `gaps_s`: between what a client heard of one answer; `cpu_s`: of each process."""

    num_tokens: int
    wall_s: float
    gaps_s: list[float]
    cpu_s: Mapping[str, float]

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.wall_s


def main() -> None:
    quick = start(__doc__)
    loads, turns, num_tokens = ((4,), 1, 20) if quick else (LOADS, 2, 200)
    report = Report("streams", {"step_ms": 1000 * STEP_S, "tokens_out": num_tokens, "turns": turns})
    for transport, env in TRANSPORTS.items():
        with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
            at, mark = port(), new_mark()
            asked = {"form": RAY, "port": at, "log": Path(name) / "steps.txt", "step_s": STEP_S, "max_rows": max(loads)}
            command = module("benchmarks.paced.server", **asked)
            with serving(command, port=at, ready="/ready", env={**env, MARK: mark}) as url:
                for load in loads:
                    _measure(report, Server(url, "triptych", mark), transport, load, turns, num_tokens)
    report.publish(results_folder(quick=quick))


def _measure(report: Report, server: Server, transport: str, load: int, turns: int, num_tokens: int) -> None:
    found: dict[str, list[Told]] = {"whole": [], "streamed": []}
    numbers = itertools.count()
    asyncio.run(_load(server, load, 2, numbers, streamed=True))  # connections, and what Ray does once
    for _ in range(turns):
        for how, told in found.items():
            told.append(asyncio.run(_load(server, load, num_tokens, numbers, streamed=how == "streamed")))
    speeds = {how: statistics.median(one.tokens_per_s for one in told) for how, told in found.items()}
    for how, told in found.items():
        gaps = sorted(gap for one in told for gap in one.gaps_s)
        total = sum(one.num_tokens for one in told)
        report.add(
            transport=transport,
            at_once=load,
            answers=how,
            of_steps=round(speeds[how] * STEP_S / load, 3),
            gap_p50_ms=round(1000 * percentile(gaps, 50)) if gaps else None,
            gap_p99_ms=round(1000 * percentile(gaps, 99)) if gaps else None,
            **{f"{name}, us a token": round(1e6 * sum(one.cpu_s[name] for one in told) / total) for name in PROCESSES},
        )
    tell(f"{transport}, {load} at once: {speeds}")
    report.goals.append(Goal(f"streamed / whole, {load} at once, {transport}", speeds["streamed"] / speeds["whole"], 0.9))


async def _load(server: Server, at_once: int, num_tokens: int, numbers: itertools.count[int], *, streamed: bool) -> Told:
    gaps: list[float] = []
    async with http_client(server.url) as client:

        async def send(_: int) -> int:
            number = next(numbers)
            body = {"model": MODEL, "messages": [{"role": "user", "content": f"number {number}"}], "seed": number}
            body["max_tokens"] = num_tokens
            if not streamed:
                return int((await post(client, CHAT, body))["usage"]["completion_tokens"])
            moments, count = [], 0
            async for event in events(client, CHAT, body | {"stream": True, "stream_options": {"include_usage": True}}):
                moments.append(time.monotonic())
                count = (event.get("usage") or {}).get("completion_tokens", count)
            gaps.extend(later - earlier for earlier, later in itertools.pairwise(moments))
            return int(count)

        before = _cpu_s(server)
        load = await closed_loop(send, 2 * at_once, concurrency=at_once)
        cpu_s = {name: spent - before[name] for name, spent in _cpu_s(server).items()}
    return Told(sum(outcome.value for outcome in load.outcomes), load.wall_s, gaps, cpu_s)


def _cpu_s(server: Server) -> Mapping[str, float]:
    spent = dict.fromkeys(PROCESSES, 0.0)
    for name, title in PROCESSES.items():
        for process in server.named(title):
            times = process.cpu_times()
            spent[name] += times.user + times.system
    return spent


if __name__ == "__main__":
    main()
