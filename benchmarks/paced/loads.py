"""The loads that `benchmarks.overhead` puts on a paced server: one request at a time, more than there are rows, and clients that
go away in mid-stream. Knows the chat route; what is made of the outcomes is `findings.py`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.loads.http_client import events, post
from benchmarks.loads.load import Load, closed_loop
from benchmarks.paced.server import MODEL

CHAT = "/v1/chat/completions"
LONG = 400  # tokens of an answer that nobody waits for
NEXT_SEED = 1000  # each load numbers its requests from another thousand


@dataclass(frozen=True, slots=True)
class Alone:
    """A whole answer. Its row in the log is `seed`."""

    seed: int
    wall_s: float


@dataclass(frozen=True, slots=True)
class Streamed:
    """`came_at`: token -> when it reached the client (`time.monotonic`; of tokens that came together, the last)."""

    seed: int
    sent_at: float
    came_at: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Gone:
    """A client that closed its connection at `left_at`."""

    seed: int
    left_at: float


async def alone(client: httpx.AsyncClient, *, count: int, num_tokens: int, first_seed: int) -> list[Alone]:
    async def send(index: int) -> Alone:
        began = time.monotonic()
        await post(client, CHAT, _body(first_seed + index, num_tokens))
        return Alone(first_seed + index, time.monotonic() - began)

    return _values(await closed_loop(send, count, concurrency=1))


async def saturating(
    client: httpx.AsyncClient, *, count: int, concurrency: int, num_tokens: int, first_seed: int
) -> list[Streamed]:
    async def send(index: int) -> Streamed:
        seed, sent_at, came_at = first_seed + index, time.monotonic(), dict[int, float]()
        async with aclosing(events(client, CHAT, _body(seed, num_tokens, stream=True))) as chunks:
            async for chunk in chunks:
                token = _last_token(chunk)
                if token is not None:
                    came_at[token] = time.monotonic()
        return Streamed(seed, sent_at, came_at)

    return _values(await closed_loop(send, count, concurrency=concurrency))


async def leaving(client: httpx.AsyncClient, *, count: int, concurrency: int, step_s: float, first_seed: int) -> list[Gone]:
    """Clients that leave after two to four tokens, at any moment of a step."""
    source = random.Random(first_seed)
    plans = [(source.randint(2, 4), source.uniform(0, step_s)) for _ in range(count)]

    async def send(index: int) -> Gone:
        num_tokens, pause_s = plans[index]
        async with aclosing(events(client, CHAT, _body(first_seed + index, LONG, stream=True))) as chunks:
            async for chunk in chunks:
                if (_last_token(chunk) or 0) >= num_tokens:
                    break
            await asyncio.sleep(pause_s)
            left_at = time.monotonic()
        return Gone(first_seed + index, left_at)

    return _values(await closed_loop(send, count, concurrency=concurrency))


def _values(load: Load[Any]) -> list[Any]:
    return [outcome.value for outcome in load.outcomes]


def _body(seed: int, num_tokens: int, *, stream: bool = False) -> dict[str, object]:
    messages: Sequence[object] = [{"role": "user", "content": f"Request {seed}: count, please."}]
    return {"model": MODEL, "messages": messages, "seed": seed, "max_tokens": num_tokens, "stream": stream}


def _last_token(chunk: dict[str, Any]) -> int | None:
    """A paced token is its own number."""
    text = next((choice["delta"].get("content") for choice in chunk["choices"]), None)
    return int(text.split()[-1]) if text and text.strip() else None
