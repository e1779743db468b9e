"""Requests that the server asks of itself for a client who isn't there: lines of a batch. They go through the app as others do, without a
connection, so that each is checked, bounded, counted and answered as it would be over HTTP.

Decides that such a request is whose it says, since only the server puts that into its scope: nothing that comes over a connection is
there. Knows no routes.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Scope

from pipelines.ingress.kept.kept_values import Owner

STATE = "offline"
CHUNK_BYTES = 256 * 1024
LOWEST = 10
"""The priority of what nobody waits for."""


@dataclass(frozen=True, slots=True)
class Offline:
    """Whose a request is, and until when it matters (wall clock)."""

    owner: Owner
    deadline: float
    priority: int = LOWEST


@dataclass(frozen=True, slots=True)
class OfflineAnswer:
    """`body`: as JSON. `retry_after_s`: where it is to be asked again."""

    status: int
    body: bytes = field(repr=False)
    request_id: str
    retry_after_s: float | None = None


def offline_of(request: Request) -> Offline | None:
    """None: it came over a connection."""
    found = request.scope.get("state", {}).get(STATE)
    return found if isinstance(found, Offline) else None


async def ask(app: ASGIApp, path: str, body: bytes, asked: Offline) -> OfflineAnswer:
    """The whole answer. Cancelling it calls the request off."""
    told: dict[str, object] = {"status": 500, "headers": []}
    pieces: list[bytes] = []
    messages, gone = _messages(body), asyncio.Event()

    async def receive() -> Message:
        async for message in messages:
            return message
        await gone.wait()  # the client stays
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            told.update(status=message["status"], headers=message["headers"])
        else:
            pieces.append(message.get("body", b""))

    scope = _scope(path, len(body), asked)
    await app(scope, receive, send)
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in _pairs(told["headers"])}
    wait_ms = headers.get("retry-after-ms", "")
    return OfflineAnswer(
        status=int(str(told["status"])),
        body=b"".join(pieces),
        request_id=str(scope["state"]["request_id"]),
        retry_after_s=int(wait_ms) / 1000 if wait_ms.isdecimal() else None,
    )


async def _messages(body: bytes) -> AsyncGenerator[Message]:
    for start in range(0, max(len(body), 1), CHUNK_BYTES):
        end = start + CHUNK_BYTES
        yield {"type": "http.request", "body": body[start:end], "more_body": end < len(body)}


def _pairs(headers: object) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in headers] if isinstance(headers, list) else []


def _scope(path: str, num_bytes: int, asked: Offline) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"content-type", b"application/json"),
            (b"content-length", str(num_bytes).encode()),
        ],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 80),
        "state": {STATE: asked},
    }
