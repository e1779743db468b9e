"""Several streams as one. Knows nothing of what flows through them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

from stages.concurrency.together import stopped

T = TypeVar("T")


class _End:
    """A stream's last word in the queue: how it ended."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Yields values as they come. The first error ends all; closing closes every stream. All of them have ended when it has."""
    queue: asyncio.Queue[T | _End] = asyncio.Queue()
    tasks = [asyncio.create_task(_pump(stream, queue)) for stream in streams]
    live = len(tasks)
    try:
        while live:
            value = await queue.get()
            if not isinstance(value, _End):
                yield value
                continue
            if value.error is not None:
                raise value.error
            live -= 1
    finally:
        await stopped(*tasks)


async def _pump(stream: AsyncGenerator[T, None], queue: "asyncio.Queue[T | _End]") -> None:
    """Whoever waits for the queue hears of its end, whatever that is: also where the stream was cancelled from elsewhere."""
    error: BaseException | None = None
    try:
        async with aclosing(stream):
            async for value in stream:
                queue.put_nowait(value)
    except Exception as failure:
        error = failure
    except asyncio.CancelledError as cancelled:
        error = cancelled
        raise
    finally:
        queue.put_nowait(_End(error))
