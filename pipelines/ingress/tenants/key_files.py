"""Files that hold API keys, looked at again and again: one that is another than it was has keys read anew, so that a key is rotated without
a restart. Decides when to look, and what tells a file from what it was. Reads no key; who does is told, once for each change.

A Kubernetes secret that is mounted is exchanged whole: its files are links, so where they lead to is what is looked at.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from stages.concurrency.thread_pool import ThreadPool
from stages.contract.errors import TriptychError

EVERY_S = 5.0
Stamp = tuple[int, int, int, int] | None

log = logging.getLogger("triptych.surface")


class KeyFiles:
    """`changed`: called on the event loop."""

    def __init__(
        self,
        pool: ThreadPool,
        changed: Callable[[], Awaitable[None]],
        *,
        every_s: float = EVERY_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool, self._changed, self._every_s, self._now = pool, changed, every_s, now
        self._stamps: dict[str, Stamp] = {}
        self._looked_at = now()
        self._looking: asyncio.Task[None] | None = None

    def note(self, files: Sequence[str]) -> None:
        """These are about to be read: what becomes of them from now on is a change. On any thread."""
        self._stamps = {file: _stamp(file) for file in files}

    def look_soon(self) -> None:
        """Where it is time. Nobody waits for it."""
        is_time = bool(self._stamps) and self._now() - self._looked_at >= self._every_s
        if is_time and (self._looking is None or self._looking.done()):
            self._looked_at = self._now()
            self._looking = asyncio.create_task(self._look_and_log())

    async def look(self) -> bool:
        """Whether one of the files had changed, and its reader was told."""
        known = self._stamps
        found = await self._pool.run(lambda: {file: _stamp(file) for file in known})
        if self._stamps is not known or found == known:  # others are being read, or these are as they were
            return False
        self._stamps = found
        await self._changed()
        return True

    def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()

    async def _look_and_log(self) -> None:
        try:
            if await self.look():
                log.info("files of auth.keys have changed; they are read again")
        except (OSError, TriptychError) as error:
            log.warning("files of auth.keys cannot be looked at: %s", error)


def _stamp(file: str) -> Stamp:
    """None: it is not there, or may not be looked at."""
    try:
        found = Path(file).expanduser().stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
