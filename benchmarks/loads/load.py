"""Sends a load and notes how long each request took: open loop (requests come when they come) or closed loop (so many at once).

Knows no HTTP and no server: `send` makes one request. A request that fails fails the whole load, because a load with failures
measures something else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
Send = Callable[[int], Awaitable[T]]
"""Makes the load's request of that number (from 0), and returns what is to be kept of its answer."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """One request. Seconds after the load began. In an open loop `due_s` is when it was to be sent, so that a client that falls
    behind makes its requests slower, not fewer."""

    index: int
    due_s: float
    ended_s: float
    value: T

    @property
    def latency_s(self) -> float:
        return self.ended_s - self.due_s


@dataclass(frozen=True, slots=True)
class Load(Generic[T]):
    """Outcomes in the order of their numbers, and when the load began (`time.monotonic`, which all processes share)."""

    began: float
    outcomes: Sequence[Outcome[T]]

    @property
    def wall_s(self) -> float:
        """From the beginning to the last answer."""
        return max(outcome.ended_s for outcome in self.outcomes)

    def latencies_s(self) -> list[float]:
        return [outcome.latency_s for outcome in self.outcomes]


async def open_loop(send: Send[T], arrivals: Sequence[float]) -> Load[T]:
    """One request at each of `arrivals` (seconds), whether or not earlier ones have been answered."""
    began = time.monotonic()

    async def one(index: int, due_s: float) -> Outcome[T]:
        await asyncio.sleep(max(0.0, began + due_s - time.monotonic()))
        value = await send(index)
        return Outcome(index, due_s, time.monotonic() - began, value)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(index, due_s)) for index, due_s in enumerate(arrivals)]
    return Load(began, [task.result() for task in tasks])


async def closed_loop(send: Send[T], count: int, *, concurrency: int) -> Load[T]:
    """`count` requests, `concurrency` at once: each of so many clients sends its next as soon as it has its answer."""
    began = time.monotonic()
    numbers = iter(range(count))
    outcomes: list[Outcome[T]] = []

    async def client() -> None:
        for index in numbers:
            due_s = time.monotonic() - began
            value = await send(index)
            outcomes.append(Outcome(index, due_s, time.monotonic() - began, value))

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(client())
    return Load(began, sorted(outcomes, key=lambda outcome: outcome.index))
