"""A small body that comes along with its request. Serve's proxy hands a replica the head of a request, and the replica asks it for the
body: a call between processes for every request, whatever its size.

So the proxy waits for a body that is declared as small (`SMALL_BYTES`) before it asks a replica, for a moment, since it has mostly come
with the head; and sends it along in the scope, where the replica's app finds it. An app that doesn't look there (an older one, or
another's beside ours) has it from the proxy as ever. What is larger, slower, or of no declared length goes as Serve has it. Knows
nothing of what is in a body.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.ingress.body.body_budget import FREE_BYTES

EARLY_BODY = "triptych.early_body"
SMALL_BYTES = FREE_BYTES  # which nobody counts
WITHIN_S = 0.05
MAX_DIGITS = 16


def declared_bytes(scope: Scope) -> int | None:
    """How long its head says that the body is; None: it says nothing that could be so."""
    declared = dict(scope["headers"]).get(b"content-length", b"")
    return int(declared) if declared.isdigit() and len(declared) < MAX_DIGITS else None


class SendsBodiesAlong:
    """ASGI middleware, of the proxy: next to it, inside of what bounds bodies. `within_s`: how long is waited for a body."""

    def __init__(self, app: ASGIApp, within_s: float = WITHIN_S) -> None:
        self._app, self._within_s = app, within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared = declared_bytes(scope) if scope["type"] == "http" else None
        if not declared or declared > SMALL_BYTES:
            await self._app(scope, receive, send)
            return
        came = await self._came(receive)
        if _is_whole(came):
            scope = {**scope, EARLY_BODY: b"".join(message.get("body", b"") for message in came)}
        await self._app(scope, _Again(came, receive), send)

    async def _came(self, receive: Receive) -> Sequence[Message]:
        """All of it, or what has come of it in time."""
        came: list[Message] = []
        try:
            async with asyncio.timeout(self._within_s):
                while not came or came[-1].get("more_body", False):
                    came.append(await receive())
        except TimeoutError:
            pass
        return came


class TakesBodiesAlong:
    """ASGI middleware, of the app: has the body be what came along."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if EARLY_BODY not in scope:
            await self._app(scope, receive, send)
            return
        body = cast("bytes", scope.pop(EARLY_BODY))
        await self._app(scope, _InPlace(body, receive), send)


def _is_whole(came: Sequence[Message]) -> bool:
    return bool(came) and came[-1]["type"] == "http.request" and not came[-1].get("more_body", False)


class _Again:
    """These messages, and then those that are received."""

    def __init__(self, came: Sequence[Message], receive: Receive) -> None:
        self._left, self._receive = deque(came), receive

    async def __call__(self) -> Message:
        return self._left.popleft() if self._left else await self._receive()


class _InPlace:
    """The body at once, and then what is received behind it."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive, self._is_behind = receive, False

    async def __call__(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        while True:
            message = await self._receive()
            if self._is_behind or message["type"] != "http.request":
                return message
            self._is_behind = not message.get("more_body", False)
