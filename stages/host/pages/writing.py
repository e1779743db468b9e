"""Pages from an engine to the cache: behind the answers, never in their way.

Decides how much may wait to be written; what comes beyond is lost and counted. The engine's thread hands pages over and goes on, the
event loop passes them to the thread that writes. Knows no stage.
"""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from cache.codec import Arrays
from cache.tier import Label
from stages.contract.pages import MadePage
from stages.engine.delivery import Deliver
from stages.host.remembered.cache_threads import CacheThreads
from stages.host.remembered.origin import remembered_as

MAX_WAITING_BYTES = 64 * 2**20
"""Of one stage, beside what is being handed over."""


class PageWriter:
    """A `PageTaker`. `kind`: of the pages, for their labels; `origin`: the key of who makes them; `deliver` calls on the event loop;
    `on_room` is called there where there is room after there was none; `on_lost`, on any thread, with the names of what it drops;
    `on_written`, there, with those of what the cache took."""

    def __init__(
        self,
        cache: CacheThreads,
        kind: str,
        origin: str,
        deliver: Deliver,
        *,
        on_room: Callable[[], None],
        on_lost: Callable[[Sequence[str]], None],
        on_written: Callable[[Sequence[str]], None] = lambda names: None,
    ) -> None:
        self._cache, self._kind, self._origin, self._deliver = cache, kind, origin, deliver
        self._on_room, self._on_lost, self._on_written = on_room, on_lost, on_written
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
        lost: list[str] = []
        with self._lock:
            for page in pages:
                if self._waiting_bytes < MAX_WAITING_BYTES:
                    self._waiting_bytes += page.value.num_bytes
                    taken.append(page)
                else:
                    lost.append(page.name)
            self._num_dropped += len(lost)
        if lost:
            self._on_lost(lost)
        if taken:
            self._deliver([partial(self._begin_writing, taken)])

    # ---- the event loop ----

    def _begin_writing(self, pages: Sequence[MadePage]) -> None:
        task = asyncio.get_running_loop().create_task(self._write(pages))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, pages: Sequence[MadePage]) -> None:
        by_salt: dict[str, list[MadePage]] = defaultdict(list)
        for page in pages:
            by_salt[page.salt].append(page)
        lost = {page.name for page in pages}
        try:
            for salt, made in by_salt.items():
                behind = [remembered_as(name, self._origin) for name in made[-1].before]
                if await self._cache.put_many(self._values(made), Label(self._kind, salt), behind=behind):
                    lost.difference_update(page.name for page in made)
                for page in made:
                    self._cache.used([remembered_as(name, self._origin) for name in page.before])
        finally:
            self._written(pages, lost)

    def _values(self, pages: Sequence[MadePage]) -> Mapping[str, Arrays]:
        return {remembered_as(page.name, self._origin): page.value.freeze().arrays() for page in pages}

    def _written(self, pages: Sequence[MadePage], lost: Collection[str]) -> None:
        written = [page.name for page in pages if page.name not in lost]
        num_written = len(written)
        num_bytes = sum(page.value.num_bytes for page in pages)
        with self._lock:
            had_room = self.has_room()
            self._waiting_bytes -= num_bytes
            self._num_exported += num_written
            self._num_dropped += len(pages) - num_written
            self._num_bytes += num_bytes if num_written else 0
        if lost:
            self._on_lost(sorted(lost))
        if written:
            self._on_written(written)
        if not had_room and self.has_room():
            self._on_room()
