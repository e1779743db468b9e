"""Whether the process that a stream went to still lives, and of what it died.

By gRPC the end of a process is heard at once, but not why it ended, and that of a machine which goes without a word only after minutes
(Ray's keepalive). Ray itself knows more, and tells so whoever calls the replica as an actor: so it is asked for a word that way, while a
stream says nothing, and where one broke off. How it answers is all the same, and while its connection stands it may take as long as it
likes. Knows no stage.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context

import ray.exceptions

from pipelines.routing.route import Route

SILENT_S = 10.0
WHY_S, WHY_AGAIN_S = 2.0, 0.05
"""How long, at most, and how often it is asked why a connection broke off. Of a process that ended Ray knows within a moment."""
log = logging.getLogger("triptych.vigil")


class Watch:
    """Of all streams of a caller: each replica is asked once, however many of them wait for its word."""

    def __init__(self, silent_s: float = SILENT_S, why_s: float = WHY_S) -> None:
        self.silent_s, self._why_s = silent_s, why_s
        self._asked: dict[str, tuple[float, asyncio.Task[Exception | None]]] = {}

    def over(self, route: Route) -> "Vigil":
        return Vigil(self, route)

    async def word(self, replica: str, ask: Callable[[], Awaitable[object]]) -> Exception | None:
        """None: it answered; else what came instead."""
        now, loop = time.monotonic(), asyncio.get_running_loop()
        for name in [name for name, (at, task) in self._asked.items() if task.done() and now > at + self.silent_s / 2]:
            del self._asked[name]
        if replica not in self._asked or self._asked[replica][1].get_loop() is not loop:
            self._asked[replica] = now, loop.create_task(_answer(ask), context=Context())  # of no request
        return await asyncio.shield(self._asked[replica][1])

    async def why(self, error: Exception, route: Route, left_s: float | None = None) -> Exception:
        """In place of gRPC's error that a connection broke off, what Ray says of its end. Where Ray knows of none, it was the network, or
        the whole node that went. `left_s`: it is not asked for longer."""
        ask = route.ask
        if not isinstance(error, ray.exceptions.ActorUnavailableError) or ask is None:
            return error
        with suppress(TimeoutError):
            async with asyncio.timeout(self._why_s if left_s is None else min(left_s, self._why_s)):
                while True:
                    said = await _answer(ask)
                    if said is None:
                        break
                    if not _is_unknown(said):
                        return said
                    await asyncio.sleep(WHY_AGAIN_S)
        return ray.exceptions.NodeDiedError(f"{route.replica}: {error}")


class Vigil:
    """Over one stream. `error`: what Ray says of the end of the replica that it waits for."""

    def __init__(self, watch: Watch, route: Route) -> None:
        self._watch, self._route = watch, route
        self._asking: asyncio.Task[None] | None = None
        self._timer: asyncio.Timeout | None = None
        self.error: Exception | None = None

    @contextmanager
    def kept(self, timer: asyncio.Timeout) -> Iterator[None]:
        """`timer` expires when the replica's end is known."""
        self._timer, self.error = timer, None
        due = asyncio.get_running_loop().call_later(self._watch.silent_s, self._ask)
        try:
            yield
        finally:
            due.cancel()
            self._timer = None

    async def aclose(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    def _ask(self) -> None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._asked())

    async def _asked(self) -> None:
        """Again and again as long as the stream is silent, or until it is dead."""
        while self._timer is not None:
            ask, replica = self._route.ask, self._route.replica
            if ask is not None:  # else it is with nobody yet
                said = await self._watch.word(replica, ask)
                if said is not None and not _is_unknown(said) and self._route.ask is ask and self._timer is not None:
                    self.error = said
                    self._timer.reschedule(asyncio.get_running_loop().time())
                    return
            await asyncio.sleep(self._watch.silent_s)


async def _answer(ask: Callable[[], Awaitable[object]]) -> Exception | None:
    try:
        await ask()
    except ray.exceptions.RayActorError as error:
        return error
    except Exception as error:
        log.warning("a replica was asked whether it lives, in vain: %s: %s", type(error).__name__, error)
    return None


def _is_unknown(said: Exception | None) -> bool:
    """It may come back, or Ray does not know yet what became of it."""
    return isinstance(said, ray.exceptions.ActorUnavailableError)
