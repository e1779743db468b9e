"""`python -m benchmarks.large_bodies`: a thousand requests at once, each with a body of 31 MiB, against `triptych serve` as shipped,
several times over (about 3 minutes on 2 cores): what the proxy and the HTTP replica hold, what becomes of the bodies, and how long a short
chat takes beside them.

The bodies are no JSON: whoever is let in is refused as soon as it is read. They are sent from a process of their own, which shares the
machine's cores with the server. Memory is what is a process's alone: what Ray's object store maps is counted apart, and bounded by it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import psutil

from benchmarks.loads.http_client import http_client
from benchmarks.mixed.server import new_mark
from benchmarks.reporting.command import results_folder, start, tell
from benchmarks.reporting.report import Goal, Report
from benchmarks.servers.parts import MARK, Server
from benchmarks.servers.triptych import served, shipped_config

MIB = 2**20
BODY_BYTES = 31 * MIB
PIECE = bytes(64 * 1024)
GIVE_UP_S = 90.0
LOOK_EVERY_S = 0.1
SETTLED_S = 3.0
"""After a flood, until memory has gone back to the system."""
CHAT = {"model": "triptych-see", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
PROXY, HTTP = "Serve's proxy", "HTTP replica"


@dataclass(slots=True)
class Flood:
    """One of them. MiB by process: before it, at most, and after it; seconds of chats beside it."""

    answers: Counter[str] = field(default_factory=Counter)
    took_s: float = 0.0
    before: dict[str, float] = field(default_factory=dict)
    most: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    chats: list[float] = field(default_factory=list)
    num_failed: int = 0


def main() -> None:
    quick = start(__doc__)
    num_bodies, rounds = (100, 2) if quick else (1000, 5)
    mark = new_mark()
    with served(shipped_config(), env={MARK: mark}) as url, ProcessPoolExecutor(1) as sender:
        alone, floods = asyncio.run(_measured(Server(url, "triptych", mark), sender, num_bodies, rounds))
    _report(alone, floods, num_bodies).publish(results_folder(quick=quick))


async def _measured(
    server: Server, sender: ProcessPoolExecutor, num_bodies: int, rounds: int
) -> tuple[list[float], list[Flood]]:
    (proxy,), (replica,) = server.named("ProxyActor"), server.replicas("ingress")
    watched = {PROXY: proxy, HTTP: replica}
    alone, floods = Flood(), list[Flood]()
    async with http_client(server.url) as client:
        for _ in range(20):
            await _chat(client, alone)
        for number in range(rounds):
            flood = Flood(before=_held(watched))
            await _flooded(client, server.url, sender, watched, flood, num_bodies)
            await asyncio.sleep(SETTLED_S)
            flood.after = _held(watched)
            tell(f"flood {number + 1}: {dict(flood.answers)}, chats up to {max(flood.chats):.1f} s, {flood.after}")
            floods.append(flood)
    return alone.chats, floods


async def _flooded(
    client: httpx.AsyncClient,
    url: str,
    sender: ProcessPoolExecutor,
    watched: Mapping[str, psutil.Process],
    flood: Flood,
    num_bodies: int,
) -> None:
    is_over = asyncio.Event()

    async def chatting() -> None:
        while not is_over.is_set():
            await _chat(client, flood)

    async def watching() -> None:
        while not is_over.is_set():
            for name, mib in _held(watched).items():
                flood.most[name] = max(flood.most.get(name, 0.0), mib)
            await asyncio.sleep(LOOK_EVERY_S)

    beside = [asyncio.create_task(chatting()), asyncio.create_task(watching())]
    began = time.monotonic()
    flood.answers = await asyncio.get_running_loop().run_in_executor(sender, send_bodies, url, num_bodies)
    flood.took_s = time.monotonic() - began
    is_over.set()
    await asyncio.gather(*beside)


async def _chat(client: httpx.AsyncClient, flood: Flood) -> None:
    began = time.monotonic()
    try:
        answer = await client.post("/v1/chat/completions", json=CHAT, timeout=60)
        flood.num_failed += not answer.is_success
    except httpx.HTTPError:
        flood.num_failed += 1
    flood.chats.append(time.monotonic() - began)


def _held(watched: Mapping[str, psutil.Process]) -> dict[str, float]:
    """MiB, without what is shared with others."""
    held = {}
    for name, process in watched.items():
        memory = process.memory_info()
        held[name] = (memory.rss - memory.shared) / MIB
    return held


def send_bodies(url: str, count: int) -> Counter[str]:
    """All at once, as fast as they are taken: how many are answered with which status, or how else they end."""
    return asyncio.run(_sent(url, count))


async def _sent(url: str, count: int) -> Counter[str]:
    return Counter(await asyncio.gather(*(_body(urlsplit(url).port or 80) for _ in range(count))))


async def _body(port: int) -> str:
    try:
        async with asyncio.timeout(GIVE_UP_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {BODY_BYTES}\r\n\r\n".encode())
            answer = asyncio.ensure_future(reader.readline())
            sending = asyncio.ensure_future(_pieces(writer))
            try:
                line = await answer
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                writer.close()
        return line.decode().split(" ")[1] if line else "closed"
    except (TimeoutError, OSError, ValueError) as error:
        return type(error).__name__


async def _pieces(writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        for _ in range(BODY_BYTES // len(PIECE)):
            writer.write(PIECE)
            await writer.drain()


def _report(alone: list[float], floods: list[Flood], num_bodies: int) -> Report:
    report = Report("large_bodies", {"bodies": num_bodies, "mib": BODY_BYTES // MIB, "floods": len(floods)})
    report.add(side="chats", load="alone", median_s=round(statistics.median(alone), 2), slowest_s=round(max(alone), 2))
    for number, flood in enumerate(floods, start=1):
        report.add(
            side="chats",
            load=f"beside flood {number}",
            median_s=round(statistics.median(flood.chats), 2),
            slowest_s=round(max(flood.chats), 2),
            count=len(flood.chats),
            failed=flood.num_failed,
        )
        for name in (PROXY, HTTP):
            report.add(
                side=name,
                load=f"flood {number}",
                mib_before=round(flood.before[name]),
                mib_at_most=round(flood.most[name]),
                mib_after=round(flood.after[name]),
            )
        answers = ", ".join(f"{count} x {status}" for status, count in flood.answers.most_common())
        report.notes.append(f"flood {number}: {answers}, in {flood.took_s:.0f} s")
    refused = sum(flood.answers["429"] + flood.answers["400"] + flood.answers["413"] for flood in floods)
    report.goals = [
        Goal("bodies that are answered, of all", refused / (num_bodies * len(floods)), 1.0),
        Goal("chats that failed beside them", sum(flood.num_failed for flood in floods), 0.0, at_most=True),
        *(
            Goal(
                f"{name}: memory after the last flood / after the first",
                floods[-1].after[name] / floods[0].after[name],
                1.1,
                at_most=True,
            )
            for name in (PROXY, HTTP)
        ),
    ]
    return report


if __name__ == "__main__":
    main()
