"""Pages from an engine to the cache: behind the answers, never in their way.

Decides how much may wait to be written; what comes beyond is lost and counted. The engine's thread hands pages over and goes on, the
event loop passes them to the thread that writes. Knows no stage.
"""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from cache.codec import Arrays
from cache.tier import Label
from stages.contract.pages import MadePage
from stages.engine.delivery import Deliver
from stages.host.cache_threads import CacheThreads
from stages.host.origin import remembered_as

MAX_WAITING_BYTES = 64 * 2**20
"""Of one stage, beside what is being handed over."""


class PageWriter:
    """A `PageTaker`. `kind`: of the pages, for their labels; `origin`: the key of who makes them; `deliver` calls on the event loop;
    `on_room` is called there where there is room after there was none."""

    def __init__(self, cache: CacheThreads, kind: str, origin: str, deliver: Deliver, on_room: Callable[[], None]) -> None:
        self._cache, self._kind, self._origin, self._deliver, self._on_room = cache, kind, origin, deliver, on_room
        self._lock = threading.Lock()
        self._waiting_bytes = self._num_exported = self._num_bytes = self._num_dropped = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def metrics(self) -> Mapping[str, float]:
        with self._lock:
            return {
                "pages_exported_total": float(self._num_exported),
                "pages_dropped_total": float(self._num_dropped),
                "page_bytes_exported_total": float(self._num_bytes),
                "page_bytes_writing": float(self._waiting_bytes),
            }

    async def settled(self) -> None:
        """Returns once all that the event loop has heard of is written."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # ---- any thread ----

    def has_room(self) -> bool:
        return self._waiting_bytes < MAX_WAITING_BYTES

    def take(self, pages: Sequence[MadePage]) -> None:
        taken: list[MadePage] = []
        with self._lock:
            for page in pages:
                if self._waiting_bytes < MAX_WAITING_BYTES:
                    self._waiting_bytes += page.value.num_bytes
                    taken.append(page)
            self._num_dropped += len(pages) - len(taken)
        if taken:
            self._deliver([partial(self._begin_writing, taken)])

    # ---- the event loop ----

    def _begin_writing(self, pages: Sequence[MadePage]) -> None:
        task = asyncio.get_running_loop().create_task(self._write(pages))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, pages: Sequence[MadePage]) -> None:
        by_salt: dict[str, dict[str, Arrays]] = defaultdict(dict)
        for page in pages:
            by_salt[page.salt][remembered_as(page.name, self._origin)] = page.value.freeze().arrays()
        num_written = 0
        try:
            for salt, values in by_salt.items():
                if await self._cache.put_many(values, Label(self._kind, salt)):
                    num_written += len(values)
        finally:
            self._written(pages, num_written)

    def _written(self, pages: Sequence[MadePage], num_written: int) -> None:
        num_bytes = sum(page.value.num_bytes for page in pages)
        with self._lock:
            had_room = self.has_room()
            self._waiting_bytes -= num_bytes
            self._num_exported += num_written
            self._num_dropped += len(pages) - num_written
            self._num_bytes += num_bytes if num_written else 0
        if not had_room and self.has_room():
            self._on_room()
