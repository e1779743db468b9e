"""An ASGI app in place of which another may be put while it serves: requests under way end in the one that they came to.

Decides nothing about HTTP. Knows which versions are in use, so that what only an old one needs can be kept until it is done.
"""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(slots=True)
class _Version:
    name: str
    app: AsgiApp
    num_requests: int = 0


class LiveApp:
    """`replace` before the first request. On one event loop."""

    def __init__(self) -> None:
        self._versions: list[_Version] = []  # the last one takes new requests

    @property
    def serves(self) -> bool:
        return bool(self._versions)

    @property
    def routes(self) -> Sequence[Any]:
        """Of the current app: Serve's proxy asks, to name them in its metrics."""
        return getattr(self._versions[-1].app, "routes", ()) if self._versions else ()

    def in_use(self) -> tuple[str, ...]:
        """The current version last, before it those that still answer requests."""
        self._forget_finished()
        return tuple(version.name for version in self._versions)

    def replace(self, app: AsgiApp, name: str) -> None:
        """New requests come to `app`."""
        self._versions.append(_Version(name, app))
        self._forget_finished()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        version = self._versions[-1]
        version.num_requests += 1
        try:
            await version.app(scope, receive, send)
        finally:
            version.num_requests -= 1

    def _forget_finished(self) -> None:
        self._versions = [version for version in self._versions if version.num_requests or version is self._versions[-1]]


async def _lifespan(receive: Receive, send: Send) -> None:
    """The apps start and end nothing of their own."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
