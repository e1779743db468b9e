"""Stopping the work as soon as nobody waits for it: the client went away, or the request's time is up.

Knows ASGI's `receive` and `send`, and nothing of what the work is.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.types import Message, Receive, Send

from pipelines.context import RequestContext
from stages.concurrency.together import stopped
from stages.contract.errors import Cancelled

T = TypeVar("T")

SEND_WITHIN_S = 60.0
"""How long a client may take nothing of what it is sent."""


class ClientGone(Exception):
    """Nobody reads the answer any more. No failure."""


@asynccontextmanager
async def in_time(context: RequestContext) -> AsyncGenerator[None]:
    """Cancels what is inside when the request's time is up, and raises `DeadlineExceeded` then."""
    left = context.remaining_s()
    timer = asyncio.timeout(left if math.isfinite(left) else None)
    try:
        async with timer:
            yield
    except TimeoutError:
        if not timer.expired():
            raise
        raise context.too_late() from None


async def unless_gone(receive: Receive, context: RequestContext, work: Coroutine[Any, Any, T]) -> T:
    """The work's result. The body must have been read to its end.

    Raises `Cancelled` where the client goes away first and `DeadlineExceeded` where the time is up; the work has been
    cancelled, and has finished being so, in either case.
    """
    task, watcher = asyncio.ensure_future(work), asyncio.ensure_future(gone(receive))
    try:
        async with in_time(context):
            await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Cancelled("the client went away")
    finally:
        await stopped(task, watcher)


async def gone(receive: Receive) -> None:
    """Returns when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_in_time(send: Send, message: Message, within_s: float) -> None:
    """Raises `ClientGone` where the connection breaks, or takes nothing for so long: a server waits for ever for a client that is there
    and never reads."""
    try:
        async with asyncio.timeout(within_s):
            await send(message)
    except OSError as error:  # running out of time is one
        raise ClientGone from error
