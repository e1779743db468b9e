"""Server-sent events: read ahead, look at the first event before any header is sent, coalesce, keep the line warm, stop at
once.

Knows no pipelines and no bodies: a `StreamWriter` turns events into frames. An error before the first event is raised, so that
it becomes an ordinary response; one after that becomes the stream's last event.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Generic, Protocol, TypeVar, cast

from fastapi import Response
from starlette.types import Receive, Scope, Send

from pipelines.context import RequestContext
from pipelines.ingress.request.disconnect import gone, seconds_left, stopped
from pipelines.ingress.request.errors import error_body
from stages.contract.errors import StageFailed, TriptychError

E = TypeVar("E")
E_contra = TypeVar("E_contra", contravariant=True)

READ_AHEAD = 256
HEARTBEAT = b": working\n\n"
DONE = b"data: [DONE]\n\n"
HEADERS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}

logger = logging.getLogger(__name__)


class StreamWriter(Protocol[E_contra]):
    """Turns events into frames. `end` is called once, after the last event; not after an error."""

    async def frames(self, events: Sequence[E_contra]) -> bytes: ...

    async def end(self) -> bytes: ...


class EventFeed(Generic[E]):
    """Reads an iterator of events ahead, in a task of its own, until it ends, fails, or the context's deadline passes."""

    def __init__(self, events: AsyncIterator[E], context: RequestContext) -> None:
        self.request_id = context.id
        self._queue = asyncio.Queue[E | _End](READ_AHEAD)
        self._first: E | _End | None = None
        self._task = asyncio.create_task(self._read(cast("AsyncGenerator[E]", events), context))

    async def peek(self) -> None:
        """Returns when there is a first event. Raises what the iterator raised instead; it is closed then."""
        self._first = await self._queue.get()
        if isinstance(self._first, _End) and self._first.error is not None:
            raise self._first.error

    async def batches(self, heartbeat_s: float) -> AsyncGenerator[list[E]]:
        """All events that are there, whenever there are any; an empty list after `heartbeat_s` without. Raises as the iterator
        did."""
        head, self._first = self._first, None
        while True:
            if head is None:
                try:
                    async with asyncio.timeout(heartbeat_s):
                        head = await self._queue.get()
                except TimeoutError:
                    yield []
                    continue
            batch: list[E] = []
            while not isinstance(head, _End):
                batch.append(head)
                if self._queue.empty():
                    break
                head = self._queue.get_nowait()
            if batch:
                yield batch
            if isinstance(head, _End):
                if head.error is not None:
                    raise head.error
                return
            head = None

    async def close(self) -> None:
        """Closes the iterator, which cancels the work, and waits until it has."""
        await stopped(self._task)

    async def _read(self, events: AsyncGenerator[E], context: RequestContext) -> None:
        end, timer = _End(), asyncio.timeout(seconds_left(context))
        try:
            async with timer, aclosing(events):
                async for event in events:
                    await self._queue.put(event)
        except TimeoutError as error:
            end = _End(context.too_late() if timer.expired() else error)
        except Exception as error:
            end = _End(error)
        await self._queue.put(end)


class _End:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error


class EventStream(Response, Generic[E]):
    """A response of server-sent events. The feed must have been peeked at; it is closed when the response ends, however it
    ends."""

    media_type = "text/event-stream"

    def __init__(self, feed: EventFeed[E], writer: StreamWriter[E], *, heartbeat_s: float, done: bytes = b"") -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._feed, self._writer, self._heartbeat_s, self._done = feed, writer, heartbeat_s, done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender, watcher = asyncio.ensure_future(self._send(send)), asyncio.ensure_future(gone(receive))
        try:
            await asyncio.wait({sender, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if sender.done():
                sender.result()
        except OSError:
            logger.debug("the client went away during a stream")
        finally:
            await stopped(sender, watcher)
            await self._feed.close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._frames()) as frames:
            async for frame in frames:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _frames(self) -> AsyncGenerator[bytes]:
        try:
            async with aclosing(self._feed.batches(self._heartbeat_s)) as batches:
                async for batch in batches:
                    frame = await self._writer.frames(batch) if batch else HEARTBEAT
                    if frame:
                        yield frame
            yield await self._writer.end() + self._done
        except TriptychError as error:
            yield data_frame(error_body(error, self._feed.request_id).to_json()) + self._done
        except Exception:
            logger.exception("request %s failed after its stream's first event", self._feed.request_id)
            failure = StageFailed("the server failed on this request")
            yield data_frame(error_body(failure, self._feed.request_id).to_json()) + self._done


def data_frame(body: bytes, *, event: str | None = None) -> bytes:
    """One event. `body` is JSON on a single line."""
    name = f"event: {event}\n".encode() if event is not None else b""
    return name + b"data: " + body + b"\n\n"


async def open_feed(events: AsyncIterator[E], context: RequestContext) -> EventFeed[E]:
    """A feed whose first event is there. Raises what came instead; closed where that is an error or a cancellation."""
    feed = EventFeed(events, context)
    try:
        await feed.peek()
    except BaseException:
        await feed.close()
        raise
    return feed
