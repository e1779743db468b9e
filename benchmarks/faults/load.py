"""A steady load while something goes wrong: so many clients of each kind, each of which makes its next request as soon as it has an answer,
or none, of its last."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import httpx

from benchmarks.mixed.asked import Asked
from benchmarks.mixed.client import ask, begin
from benchmarks.mixed.requests import Kind, Size, request

CLIENTS: Mapping[Kind, int] = {
    Kind.GREEDY: 2,
    Kind.SEEDED: 2,
    Kind.IMAGE_CHAT: 1,
    Kind.PAINTING: 1,
    Kind.EMBEDDING: 1,
}
POLL_S = 0.05
PAUSE_S = 0.1  # of a client between two requests: else embeddings alone would fill a core


class Load:
    """`asked`: all requests so far, in the order of their sending."""

    def __init__(self, client: httpx.AsyncClient, size: Size, first: int) -> None:
        self._client, self._size, self._numbers = client, size, itertools.count(first)
        self._stopping = asyncio.Event()
        self.asked: list[Asked] = []

    async def keep_asking(self, kind: Kind) -> None:
        while not self._stopping.is_set():
            one = begin(request(kind, next(self._numbers), self._size))
            self.asked.append(one)
            await ask(self._client, one)
            await asyncio.sleep(PAUSE_S)

    def stop(self) -> None:
        """Those under way come to their end."""
        self._stopping.set()

    def running(self) -> Sequence[Asked]:
        return [one for one in self.asked if one.ended_at is None]

    def is_answered(self, kind: Kind) -> bool:
        return any(one.request.kind is kind and one.status == 200 and one.ended_at is not None for one in self.asked)

    def is_mid_stream(self, kind: Kind) -> bool:
        """Whether a stream of this kind has been told something, and most of it has not been."""
        return any(one.request.kind is kind and one.told and one.num_heard < self._size.tokens // 2 for one in self.running())

    async def until(self, true: Callable[[], bool], timeout_s: float) -> bool:
        """Whether it came true in time."""
        deadline = time.monotonic() + timeout_s
        while not true():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True


@asynccontextmanager
async def steady(client: httpx.AsyncClient, size: Size, first: int) -> AsyncIterator[Load]:
    """The clients ask while inside; at its end every request is through."""
    load = Load(client, size, first)
    async with asyncio.TaskGroup() as group:
        for kind, count in CLIENTS.items():
            for _ in range(count):
                group.create_task(load.keep_asking(kind))
        try:
            yield load
        finally:
            load.stop()
