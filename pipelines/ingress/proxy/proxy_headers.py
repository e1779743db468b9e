"""Keeps Serve's proxy from answering in our place.

The proxy understands two headers itself: at `x-request-timeout-seconds` it gives up with a 408 in plain text, a moment before our
own 504 with an OpenAI body; `x-request-disconnect-disabled` makes it ignore a client that went away. Both are taken off
before it looks; the timeout goes on to the ingress under a name of our own. It also echoes any `x-request-id`: one that is no
id is taken off, too, and it makes one that is. And it tells everybody, at /-/routes, which applications there are: a request for
that goes on to the ingress, which knows no such route and decides who is answered at all.

`triptych serve` puts this in place. For a cluster, start Ray with `CALLBACK` in the environment variable
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, or have clients send `x-triptych-timeout-seconds`.
"""

import re

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.ingress.body.body_budget import BodyBudget
from pipelines.ingress.body.early_body import SendsBodiesAlong
from pipelines.ingress.body.large_blocks import return_large_blocks
from pipelines.ingress.proxy.bounded_connection import bound_connections
from pipelines.ingress.proxy.proxy_bodies import BoundedProxy
from pipelines.ingress.proxy.proxy_errors import OwnErrors
from pipelines.settings.environment import proxy_body_bytes

CALLBACK = "pipelines.ingress.proxy.proxy_headers:middlewares"
SHARED_HEADER, OWN_HEADER = "x-request-timeout-seconds", "x-triptych-timeout-seconds"
REQUEST_ID = "x-request-id"
ROUTES = "/-/routes"
_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")
_RENAMED = {SHARED_HEADER.encode(): OWN_HEADER.encode()}
_DROPPED = {b"x-request-disconnect-disabled"}


class OwnHeaders:
    """ASGI middleware: renames and drops request headers, and keeps the proxy from answering for /-/routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            kept = [(name, value) for name, value in scope["headers"] if not _is_dropped(name, value)]
            headers = [(_RENAMED.get(name, name), value) for name, value in kept]
            path = f"{scope['path']}/" if scope["path"] == ROUTES else scope["path"]  # which the proxy knows to the letter
            scope = {**scope, "headers": headers, "path": path}
        await self._app(scope, receive, send)


def is_request_id(given: bytes) -> bool:
    """Whether a client's x-request-id may stand in logs and answers: 1 to 128 letters, digits and .:_-"""
    return _ID.fullmatch(given) is not None


def _is_dropped(name: bytes, value: bytes) -> bool:
    return name in _DROPPED or (name == REQUEST_ID.encode() and not is_request_id(value))


def middlewares() -> list[Middleware]:
    """What Serve's proxy calls at its start, before its server's."""
    bound_connections()
    bodies = BodyBudget(proxy_body_bytes())
    return_large_blocks()
    return [  # the last one is asked first
        Middleware(SendsBodiesAlong),
        Middleware(OwnHeaders),
        Middleware(OwnErrors),
        Middleware(BoundedProxy, budget=bodies),
    ]
