"""`python -m benchmarks.fairness`: how smooth running chats stay beside other work (about 3 minutes on 2 cores).

Chats stream under `triptych serve` with the shipped configuration, one replica of each stage. The time between two tokens as the
client sees it is measured with nothing else running, while images are painted without a pause (another stage, the same
cores), and while long prompts are read without a pause (the same stage: chunked prefill), in chunks as shipped and in small ones.
Decides loads; states no goal: what the cores allow is in the table's first row.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import httpx

from benchmarks.loads.http_client import events, http_client, post
from benchmarks.loads.load import closed_loop
from benchmarks.loads.spread import spread
from benchmarks.reporting.command import results_folder, start, tell
from benchmarks.reporting.report import Report
from benchmarks.servers import triptych

SEE, PAINT = "triptych-see", "triptych-paint"
NUM_STREAMS = 4
NUM_TOKENS = 64
LONG_PROMPT_NUMBERS = 400  # of three digits, each a token of its own: some 1,550 tokens
FEW_TOKENS = 64
NUM_PAINTERS = 4
NUM_READERS = 2

Beside = Callable[[httpx.AsyncClient, int], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Smoothness:
    """What the clients of the chats saw. Seconds; `num_others` counts the other requests that were answered meanwhile."""

    gaps: Sequence[float]
    first: Sequence[float]
    num_others: int
    wall_s: float


def main() -> None:
    quick = start(__doc__)
    config = triptych.shipped_config()
    for deployment in ("llm", "denoiser", "text-encoder", "vae"):
        triptych.fixed(config, deployment)
    report = Report(
        "fairness",
        {
            "streams": NUM_STREAMS,
            "tokens_out": NUM_TOKENS,
            "painters": NUM_PAINTERS,
            "long_prompt_numbers": LONG_PROMPT_NUMBERS,
            "readers": NUM_READERS,
        },
    )
    num_chats = 4 if quick else 24

    def measure(url: str, name: str, beside: Beside | None, count: int) -> None:
        tell(f"chats beside {name}")
        seen = asyncio.run(_measure(url, beside, count, num_chats=num_chats))
        found = spread(seen.gaps)
        report.add(
            beside=name,
            tokens=len(seen.gaps),
            p50_ms=round(1000 * found.p50, 1),
            p99_ms=round(1000 * found.p99, 1),
            max_ms=round(1000 * found.max, 1),
            first_token_p50_ms=round(1000 * spread(seen.first).p50, 1),
            others_per_s=round(seen.num_others / seen.wall_s, 2),
        )

    llm = triptych.model_of(config, SEE)["llm"]
    with triptych.served(config) as url:
        measure(url, "nothing", None, 0)
        measure(url, "images being painted", _paint, NUM_PAINTERS)
        measure(url, f"long prompts, {llm['prefill_chunk_tokens']} tokens a step", _read, NUM_READERS)
    llm["prefill_chunk_tokens"] = FEW_TOKENS
    with triptych.served(config) as url:
        measure(url, f"long prompts, {FEW_TOKENS} tokens a step", _read, NUM_READERS)
    report.publish(results_folder(quick=quick))


async def _measure(url: str, beside: Beside | None, count: int, *, num_chats: int) -> Smoothness:
    done = list[object]()
    async with http_client(url) as client:
        others = [asyncio.create_task(_for_ever(beside, client, index, done)) for index in range(count) if beside is not None]
        began = time.monotonic()
        try:
            load = await closed_loop(lambda index: _chat(client, index), num_chats, concurrency=NUM_STREAMS)
        finally:
            for other in others:
                other.cancel()
            await asyncio.gather(*others)  # raises what went wrong beside the chats: then they had nothing beside them
    first = [outcome.value[0] for outcome in load.outcomes]
    gaps = [gap for outcome in load.outcomes for gap in outcome.value[1:]]
    return Smoothness(gaps, first, len(done), time.monotonic() - began)


async def _chat(client: httpx.AsyncClient, index: int) -> list[float]:
    """Seconds to the first token, then between tokens. Tokens that come in one event share its time."""
    body = {
        "model": SEE,
        "messages": [{"role": "user", "content": f"Count upwards from {index}."}],
        "max_tokens": NUM_TOKENS,
        "temperature": 0,
        "stream": True,
    }
    last, gaps = time.monotonic(), list[float]()
    async for event in events(client, "/v1/chat/completions", body):
        if any(choice["delta"].get("content") for choice in event["choices"]):
            now = time.monotonic()
            gaps.append(now - last)
            last = now
    return gaps


async def _for_ever(beside: Beside, client: httpx.AsyncClient, index: int, done: list[object]) -> None:
    """Until it is cancelled, or for a thousand requests."""
    with suppress(asyncio.CancelledError):
        for turn in range(1_000):
            done.append(await beside(client, 1_000 * index + turn))


async def _paint(client: httpx.AsyncClient, number: int) -> object:
    body = {"model": PAINT, "prompt": "a red circle above a blue star on a gray background", "seed": number}
    return await post(client, "/v1/images/generations", body)


async def _read(client: httpx.AsyncClient, number: int) -> object:
    """A prompt that nothing is known of yet, and an answer of one token."""
    words = " ".join(str((number * 7919 + place * 104729) % 997) for place in range(LONG_PROMPT_NUMBERS))
    body = {"model": SEE, "messages": [{"role": "user", "content": words}], "max_tokens": 1, "temperature": 0}
    return await post(client, "/v1/chat/completions", body)


if __name__ == "__main__":
    main()
