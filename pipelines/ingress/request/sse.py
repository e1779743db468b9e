"""Server-sent events: look at the first event before any header is sent, if it comes soon, keep the line warm, stop at once.

Knows no pipelines and no bodies: a `StreamWriter` turns events into frames. An error before the headers is raised, so that it becomes an
ordinary response; one after that becomes the stream's last event. Proxies give up on who says nothing for long, so headers don't wait
for ever: what is refused is refused soon. Holds no events: whoever makes them is asked for
the next one when the last is on its way.
"""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from pipelines.context import RequestContext
from pipelines.ingress.request.disconnect import ClientGone, gone, in_time
from pipelines.ingress.request.errors import error_body, internal_error_body
from pipelines.ingress.request.whole_answer import cut
from stages.concurrency.together import stopped
from stages.contract.errors import TriptychError

E = TypeVar("E")
E_contra = TypeVar("E_contra", contravariant=True)

HEARTBEAT = b": working\n\n"
DONE = b"data: [DONE]\n\n"
HEADERS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}

logger = logging.getLogger(__name__)


class StreamWriter(Protocol[E_contra]):
    """Turns events into frames. `end` is called once, after the last event; not after an error."""

    async def frame(self, event: E_contra) -> bytes:
        """Empty where there is nothing to say of it, or not yet."""
        ...

    async def end(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Opened(Generic[E]):
    """Events of which the first is there, or has been waited for long enough: headers may be sent. `first`: it, or None where there are
    none; not done: it is still to come."""

    first: "asyncio.Task[E | None]"
    rest: AsyncGenerator[E]

    async def close(self) -> None:
        await stopped(self.first)
        await self.rest.aclose()


async def opened(events: AsyncIterator[E], within_s: float = math.inf) -> Opened[E]:
    """Raises what came instead of the first event, if that is within so many seconds."""
    found = Opened(asyncio.ensure_future(_next(events)), cast("AsyncGenerator[E]", events))
    try:
        done, _ = await asyncio.wait({found.first}, timeout=within_s if math.isfinite(within_s) else None)
    except asyncio.CancelledError:
        await found.close()
        raise
    if done:
        found.first.result()
    return found


async def _next(events: AsyncIterator[E]) -> E | None:
    return await anext(events, None)


class EventStream(Response, Generic[E]):
    """A response of server-sent events. Its events are closed when it ends, however it ends."""

    media_type = "text/event-stream"

    def __init__(
        self,
        request: Request,
        context: RequestContext,
        events: Opened[E],
        writer: StreamWriter[E],
        *,
        heartbeat_s: float,
        done: bytes = b"",
    ) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._request, self._context, self._events, self._writer = request, context, events, writer
        self._heartbeat_s, self._done = heartbeat_s, done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        line = _Line(send)
        sender, watcher = asyncio.ensure_future(self._send(line)), asyncio.ensure_future(gone(receive))
        heart = asyncio.ensure_future(line.keep_warm(self._heartbeat_s))
        try:
            await asyncio.wait({sender, watcher, heart}, return_when=asyncio.FIRST_COMPLETED)
            for task in (sender, heart):
                if task.done():
                    task.result()
        except ClientGone:
            logger.debug("the client went away during a stream")
        finally:
            await stopped(sender, watcher, heart)
            await self._events.close()

    async def _send(self, line: "_Line") -> None:
        await line.open(self.status_code, self.raw_headers)
        try:
            async with in_time(self._context):
                first = await asyncio.shield(self._events.first)
                if first is not None:
                    await line.say(await self._writer.frame(first))
                async for event in self._events.rest:
                    await line.say(await self._writer.frame(event))
            last = await self._writer.end()
        except ClientGone:
            raise
        except TriptychError as error:
            last = self._failed(error)
        except Exception:
            logger.exception("request %s failed after its stream's first event", self._context.id)
            last = data_frame(internal_error_body(self._context.id).to_json())
        await line.say(last + self._done)
        await line.close()

    def _failed(self, error: TriptychError) -> bytes:
        return data_frame(error_body(error, self._request).to_json())


class _Line:
    """The way to the client: one frame at a time, and a comment where nothing was said for a while."""

    def __init__(self, send: Send) -> None:
        self._send, self._free = send, asyncio.Lock()
        self._now = asyncio.get_running_loop().time
        self._last_said, self._is_open = self._now(), False

    async def open(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        self._last_said, self._is_open = self._now(), True

    async def say(self, frame: bytes) -> None:
        """Raises `ClientGone`."""
        async with self._free:
            if frame and self._is_open:
                for piece in cut([frame]):
                    await self._send({"type": "http.response.body", "body": piece, "more_body": True})
                self._last_said = self._now()

    async def close(self) -> None:
        async with self._free:
            self._is_open = False
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def keep_warm(self, heartbeat_s: float) -> None:
        """Until it is cancelled. Raises `ClientGone`."""
        while True:
            silent_s = self._now() - self._last_said
            if silent_s >= heartbeat_s:
                await self.say(HEARTBEAT)
            await asyncio.sleep(max(heartbeat_s - silent_s, 0) or heartbeat_s)


_LINE_ENDS = {end.encode(): b"\\u%04x" % ord(end) for end in "\x85\u2028\u2029"}


def data_frame(*body: bytes, event: str | None = None) -> bytes:
    """One event. `body` is JSON on a single line, in pieces of whole characters. What ends a line of text in Unicode but not in JSON is
    written as an escape: clients that read lines of text (`iter_lines`) would break there."""
    name = f"event: {event}\n".encode() if event is not None else b""
    return b"".join((name, b"data: ", *map(_on_one_line, body), b"\n\n"))


def _on_one_line(piece: bytes) -> bytes:
    for end, escape in _LINE_ENDS.items():
        piece = piece.replace(end, escape)
    return piece
