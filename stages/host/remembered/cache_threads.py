"""The cache as an event loop may ask it: what may take a while happens in threads of its own.

Decides what must not happen on the loop. As advisory as the cache itself: where all its threads are taken and too much waits, or for
too long, nothing is found and nothing is remembered.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import ParamSpec

from cache.claims import BeingMade, Claim
from cache.codec import Arrays, size_of
from cache.tier import UNLABELLED, Label, TierStats
from cache.tiered import Found, TieredCache
from stages.concurrency.thread_pool import DaemonThreads, ThreadPool
from stages.contract.errors import Overloaded

W = ParamSpec("W")
READERS = 8  # they wait for the network, not for the CPU
ASKERS = 4
MAX_WAITING = 4096
TURN_PATIENCE_S = 1.0
"""About as long as a tier takes until it gives up on a server that doesn't answer."""
MAX_WRITING_BYTES = 256 * 2**20
"""Of the values that wait to be remembered, beside one: what comes faster than it can be is not."""


class CacheThreads:
    """For one event loop. Nobody who reads waits for whoever writes, nor who only asks where something is for whoever reads. `what` is in
    it, in messages and threads' names. `turn_within_s`: who has waited so long for a thread that reads finds nothing; None: callers have
    a patience of their own."""

    def __init__(self, cache: TieredCache, what: str = "the cache", *, turn_within_s: float | None = TURN_PATIENCE_S) -> None:
        self._cache, self._near, self._what = cache, cache.near(), what
        self._asking = ThreadPool(f"asking for {what}", threads=ASKERS, max_waiting=MAX_WAITING)
        self._reading = ThreadPool(f"reading {what}", threads=READERS, max_waiting=MAX_WAITING, turn_within_s=turn_within_s)
        self._writing = ThreadPool(f"writing {what}", threads=1, max_waiting=MAX_WAITING)
        self._writing_bytes = 0

    @property
    def tier_names(self) -> tuple[str, ...]:
        """From the first looked in to the last."""
        return self._cache.tier_names

    async def get_many(self, keys: Sequence[str], label: Label = UNLABELLED) -> Mapping[str, Found]:
        if not self._cache.is_far:
            return self._cache.get_many(keys, label)
        with suppress(Overloaded):
            return await self._reading.run(self._cache.get_many, keys, label)
        return {}

    async def get_or_claim(self, key: str, label: Label = UNLABELLED) -> Found | Claim | BeingMade | None:
        """As `TieredCache.get_or_claim`. Cancelled: what is claimed all the same is let go of."""
        if not self._cache.is_far:
            return self._cache.get_or_claim(key, label)
        bid = _Bid(self._cache, key, label)
        with suppress(Overloaded):
            try:
                return await self._reading.run(bid.make)
            except asyncio.CancelledError:
                bid.withdraw()
                raise
        return None

    async def where(self, keys: Sequence[str]) -> Mapping[str, str]:
        """key -> the first tier that holds it: a hint. What is all in memory is told at once."""
        near = self._near.where(keys)
        far = [key for key in keys if key not in near]
        if far and self._cache.is_far:
            with suppress(Overloaded):
                return near | await self._asking.run(self._cache.where, far)
        return near

    def are_near(self, keys: Sequence[str], needed: Sequence[str]) -> bool:
        """Whether nobody need be asked for the `needed` of them but this process's memory. All of them were used, as `used` has it."""
        return not self._cache.is_far or self._near.where(keys).keys() >= set(needed)

    def used(self, keys: Sequence[str]) -> None:
        """These were used by whoever holds them himself: what of them is in memory is not to be forgotten before what was used longer
        ago, nor its beginning before its end."""
        self._near.where(keys)

    def get_near(self, keys: Sequence[str], label: Label = UNLABELLED) -> Mapping[str, Found]:
        """From memory alone, at once."""
        return self._near.get_many(keys, label)

    async def put(self, key: str, value: Arrays, label: Label = UNLABELLED, *, in_memory_only: bool = False) -> None:
        if in_memory_only:
            await self._write(size_of(value), self._cache.put_in_memory, key, value, label)
        else:
            await self._write(size_of(value), self._cache.put, key, value, label)

    async def put_many(self, values: Mapping[str, Arrays], label: Label = UNLABELLED, *, behind: Sequence[str] = ()) -> bool:
        """False: there was too much to be written already. `behind`: what these go on from, which is not to be forgotten for them."""
        return await self._write(sum(map(size_of, values.values())), self._put_many, values, label, behind)

    def _put_many(self, values: Mapping[str, Arrays], label: Label, behind: Sequence[str]) -> None:
        if behind:
            self._near.where(behind)  # on this thread: the loop may be several values behind it
        self._cache.put_many(values, label)

    async def _write(self, size: int, put: Callable[W, None], *args: W.args, **kwargs: W.kwargs) -> bool:
        if 0 < self._writing_bytes > MAX_WRITING_BYTES - size:
            return False
        self._writing_bytes += size
        try:
            await self._writing.run(put, *args, **kwargs)
        except Overloaded:
            return False
        finally:
            self._writing_bytes -= size
        return True

    async def forget(self, key: str) -> None:
        with suppress(Overloaded):
            await self._writing.run(self._cache.delete, [key])

    async def stats(self) -> Mapping[str, TierStats]:
        """Raises `Overloaded`, and `Unavailable` once it is closed."""
        return await self._reading.run(self._cache.stats)

    async def close(self) -> None:
        """Closes the cache."""
        await DaemonThreads(f"closing {self._what}", max_threads=1).run(self._cache.close)
        for pool in (self._asking, self._reading, self._writing):
            pool.close()


class _Bid:
    """Looks a value up on a thread, or claims it, for somebody who may be gone by then."""

    def __init__(self, cache: TieredCache, key: str, label: Label) -> None:
        self._cache, self._key, self._label = cache, key, label
        self._lock = threading.Lock()
        self._claim: Claim | None = None
        self._is_withdrawn = False

    def make(self) -> Found | Claim | BeingMade | None:
        answer = self._cache.get_or_claim(self._key, self._label)
        with self._lock:
            self._claim = answer if isinstance(answer, Claim) else None
            self._let_go_if_unwanted()
        return answer

    def withdraw(self) -> None:
        with self._lock:
            self._is_withdrawn = True
            self._let_go_if_unwanted()

    def _let_go_if_unwanted(self) -> None:
        if self._is_withdrawn and self._claim is not None:
            self._cache.let_go(self._claim)
