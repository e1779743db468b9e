"""Over a stream that says nothing: does the process that it went to still live?

By gRPC the end of a process is heard at once, that of a machine which goes without a word only after minutes (Ray's keepalive). Ray itself
notices sooner, and tells so whoever calls the replica as an actor: so the replica is asked for a word that way, while it is silent. How it
answers is all the same, and it may take as long as it likes: only that it is dead ends the wait. Knows no stage.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray.exceptions

from pipelines.routing.route import Route

SILENT_S = 10.0
log = logging.getLogger("triptych.vigil")


class Vigil:
    """Of one stream. `error`: what Ray says of the replica's end."""

    def __init__(self, route: Route, silent_s: float = SILENT_S) -> None:
        self._route, self._silent_s = route, silent_s
        self._asking: asyncio.Task[None] | None = None
        self._timer: asyncio.Timeout | None = None
        self.error: ray.exceptions.RayActorError | None = None

    @contextmanager
    def kept(self, timer: asyncio.Timeout) -> Iterator[None]:
        """`timer` expires when the replica's end is known."""
        self._timer = timer
        due = asyncio.get_running_loop().call_later(self._silent_s, self._ask)
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
            try:
                if self._route.ask is not None:  # else it is with nobody yet
                    await self._route.ask()
            except ray.exceptions.RayActorError as error:
                if not isinstance(error, ray.exceptions.ActorUnavailableError):  # which may come back
                    self._tell(error)
                    return
            except Exception:
                log.exception("%s: its replica was asked whether it lives, in vain", self._route.stage)
            await asyncio.sleep(self._silent_s)

    def _tell(self, error: ray.exceptions.RayActorError) -> None:
        self.error = error
        if self._timer is not None:
            self._timer.reschedule(asyncio.get_running_loop().time())
