"""Gives the shape of our errors to what Serve's proxy refuses by itself: it answers in plain text where its queue is full or no replica
is there, and not at all where the replica ended under the request. That is not tried again: the request may be what ends replicas.

Knows ASGI messages only, since it runs in the proxy: no settings, no error classes. The app's own errors are JSON and pass as they are.
"""

import json
import logging
from collections.abc import Mapping, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

OWN_OF_SERVE = "/-/"
_TEXT = b"text/plain"
_NO_ANSWER = 500
_REFUSALS: Mapping[int, tuple[str, str, str]] = {
    429: ("rate_limit_error", "queue_full", "too many requests wait already (ingress.max_queued_requests); try again"),
    503: ("service_unavailable_error", "unavailable", "nothing is there to answer this request now; try again"),
}
"""By status: type, code and message."""
_ERRORS = {
    **_REFUSALS,
    _NO_ANSWER: (
        "server_error",
        "replica_lost",
        "the process that answered this request ended under it; it is not tried again",
    ),
}

logger = logging.getLogger(__name__)


class OwnErrors:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(OWN_OF_SERVE):
            await self._app(scope, receive, send)
        else:
            sender = _Sender(send)
            try:
                await self._app(scope, receive, sender)
            except Exception:
                if sender.has_begun:
                    raise
                logger.exception("a request got no answer")
            if not sender.has_begun:
                await sender.tell(_NO_ANSWER, [(b"x-should-retry", b"false")])


class _Sender:
    """Stands before `send`."""

    def __init__(self, send: Send) -> None:
        self._send, self._is_replaced, self.has_begun = send, False, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_serves_own(message):
            self._is_replaced = True
            headers = [pair for pair in message["headers"] if pair[0].lower() not in (b"content-type", b"content-length")]
            await self.tell(message["status"], headers)
        elif not self._is_replaced:
            self.has_begun = True
            await self._send(message)

    async def tell(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """The error of that status, as a whole answer."""
        self.has_begun = True
        await send_whole(self._send, status, headers, error_body(*_ERRORS[status]))


def _is_serves_own(start: Message) -> bool:
    kinds = [value for name, value in start.get("headers", []) if name.lower() == b"content-type"]
    return start["status"] in _REFUSALS and any(value.startswith(_TEXT) for value in kinds)


def error_body(kind: str, code: str, message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


async def send_whole(send: Send, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
    more = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *more]})
    await send({"type": "http.response.body", "body": body})
