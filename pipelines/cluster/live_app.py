"""An ASGI app in place of which another may be put while it serves: requests under way end in the one that they came to. And how
that other one comes to be: in a thread, while the old one serves.

Decides nothing about HTTP. Knows which versions are in use, so that what only an old one needs can be kept until it is done.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from stages.concurrency.thread_pool import ThreadPool

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
S = TypeVar("S")
log = logging.getLogger("triptych.surface")


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


@dataclass(frozen=True, slots=True)
class Built(Generic[S]):
    """An app, and the settings that it serves by."""

    settings: S
    app: AsgiApp
    name: str


class Succession(Generic[S]):
    """Puts apps that are built of settings in place of one another. `build` runs in a thread, one at a time, and may raise; `told` is
    called on the event loop when an app was put in place (with it) or settings were refused (with None)."""

    def __init__(self, live: LiveApp, build: Callable[[S], Built[S]], told: Callable[[Built[S] | None], None]) -> None:
        self._live, self._build, self._told = live, build, told
        self._thread = ThreadPool("building the HTTP surface", threads=1, max_waiting=4)
        self._next: list[S] = []  # at most one: the newest
        self._building: asyncio.Task[None] | None = None
        self.refused: tuple[S, str] | None = None
        """The newest settings, where they could not be served by, and why."""

    async def take(self, settings: S) -> None:
        """Waits, and raises what `build` does, only where nothing is served yet."""
        if not self._live.serves:
            self._put(await self._thread.run(self._build, settings))
            return
        self._next = [settings]
        if self._building is None or self._building.done():
            self._building = asyncio.create_task(self._build_next())

    async def settled(self) -> None:
        """Returns once all settings taken are served by, or refused."""
        if self._building is not None:
            await self._building

    async def _build_next(self) -> None:
        while self._next:
            settings = self._next.pop()
            try:
                built = await self._thread.run(self._build, settings)
            except Exception as error:  # whatever it is: the old ones go on
                log.exception("the changed configuration is refused")
                self.refused = settings, str(error) or type(error).__name__
                self._told(None)
            else:
                self._put(built)

    def _put(self, built: Built[S]) -> None:
        self._live.replace(built.app, built.name)
        self.refused = None
        self._told(built)


async def _lifespan(receive: Receive, send: Send) -> None:
    """The apps start and end nothing of their own."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
