"""What tests of a host wait for, and read."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from stages.contract.item import Reply
from tests.stages.fakes import Total


def total(reply: Reply[Total]) -> int:
    return int(reply.value.total)


async def once(condition: Callable[[], bool]) -> None:
    """Lets the event loop turn until the condition holds. pytest's timeout ends it."""
    while not condition():  # noqa: ASYNC110  (nobody could set an event for what another thread counts)
        await asyncio.sleep(0)


async def collect(stream: AsyncIterator[Sequence[object]]) -> list[object]:
    return [event async for events in stream for event in events]
