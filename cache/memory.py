"""The upper tier: values in this process's memory, the least recently used forgotten first, bounded by bytes.

Decides what is kept, what must be copied to keep it, and whom it is shown: what was put under another seal is not there. Of what is used
together the end is forgotten before the beginning, as a tree loses its leaves first. Knows no Redis and no codec format.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from cache.accounts import Accounts
from cache.codec import Arrays, is_storable, size_of
from cache.finite import is_finite
from cache.tier import UNLABELLED, Label, TierStats

ENTRY_BYTES = 512
"""Charged for every entry beside its arrays (key, dict, array headers), so that empty values can't fill memory for free."""

_Value = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class _Entry:
    value: _Value
    seal: str = field(repr=False)


class MemoryTier:
    """Implements `cache.tier.Tier`. `capacity_bytes` bounds the arrays plus `ENTRY_BYTES` an entry; 0 keeps nothing."""

    name = "memory"

    def __init__(self, capacity_bytes: int) -> None:
        if capacity_bytes < 0:
            raise ValueError(f"capacity_bytes: {capacity_bytes} is negative")
        self._lock = threading.Lock()
        self._entries = _CountingLru(capacity_bytes)
        self._accounts = Accounts()
        self._closed = False

    def get_many(self, keys: Sequence[str], label: Label = UNLABELLED) -> dict[str, Arrays]:
        wanted, found = dict.fromkeys(keys), dict[str, Arrays]()
        with self._lock:
            for key in reversed(wanted):
                entry = self._entries.get(key)
                if entry is not None and entry.seal == label.seal:
                    found[key] = dict(entry.value)  # the caller may edit its dict, not ours
        self._accounts.count(label.kind, hits=len(found), misses=len(wanted) - len(found))
        return found

    def holds(self, keys: Sequence[str]) -> set[str]:
        with self._lock:
            return {key for key in reversed(keys) if self._entries.get(key) is not None}

    def put_many(self, values: Mapping[str, Arrays], label: Label = UNLABELLED) -> None:
        for key, value in reversed(list(values.items())):
            if not (is_storable(value) and is_finite(value)):
                self._accounts.count(label.kind, errors=1)
            elif self._closed or _charge(value) > self._entries.maxsize:
                self._accounts.count(label.kind, dropped=1)
            else:
                kept = _Entry(_kept(value), label.seal)  # copies outside the lock
                with self._lock:
                    self._entries[key] = kept
                self._accounts.count(label.kind, puts=1, put_bytes=size_of(value))

    def delete(self, keys: Sequence[str]) -> None:
        with self._lock:
            for key in keys:
                self._entries.pop(key, None)

    def stats(self) -> TierStats:
        with self._lock:
            evictions, num_bytes, num_entries = self._entries.evictions, int(self._entries.currsize), len(self._entries)
        return TierStats(
            **self._accounts.totals(),
            evictions=evictions,
            bytes=num_bytes,
            entries=num_entries,
            kinds=self._accounts.kinds(),
        )

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._entries = _CountingLru(0)


class _CountingLru(LRUCache[str, _Entry]):
    """cachetools' LRU; `popitem` is what it calls to make room."""

    def __init__(self, capacity_bytes: int) -> None:
        super().__init__(capacity_bytes, getsizeof=lambda entry: _charge(entry.value))
        self.evictions = 0

    def popitem(self) -> tuple[str, _Entry]:
        self.evictions += 1
        return super().popitem()


def _charge(value: Arrays) -> int:
    return size_of(value) + ENTRY_BYTES


def _kept(value: Arrays) -> _Value:
    """The value as the tier may keep it: read-only, and pinning no memory beyond its own."""
    limit = _charge(value) + 64 * len(value) + 1024  # what the codec adds, generously
    return {name: array if _may_share(array, limit) else _copy(array) for name, array in value.items()}


def _may_share(array: NDArray[Any], limit: int) -> bool:
    """Whether nobody can change the array, and it is no small window on something large (a row of a batch, a shared
    segment).
    """
    if array.flags.writeable:
        return False
    base: object = array
    while isinstance(base, np.ndarray):
        if base.flags.owndata:
            return not base.flags.writeable and base.nbytes <= limit
        base = base.base
    return isinstance(base, bytes) and len(base) <= limit


def _copy(array: NDArray[Any]) -> NDArray[Any]:
    copy = np.array(array, order="C", copy=True)
    copy.flags.writeable = False
    return copy
