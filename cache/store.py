"""What every store of kept values promises, and one in memory.

Unlike a tier (`cache/tier.py`) a store is counted on: what was written is read by whoever asks next, in any process that shares the
store, until its time is over. Where it can't be asked that is an error, not a miss. A store that is full drops what its largest owner
asked for longest ago; a server that is short of memory drops what its own policy says. So whoever keeps something bounds how much
(`pipelines/ingress/kept`), and tells its clients that a value may be gone. Knows no meaning of keys and values.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

ENTRY_BYTES = 512
"""Charged beside a value."""
ADDED = 64
"""After so many additions at the soonest a memory looks for members whose time is over: also in lists that nobody reads."""


class StoreDown(Exception):
    """The store doesn't answer, or refused."""


class Store(Protocol):
    """Synchronous, from any thread. All raise `StoreDown`."""

    @property
    def is_shared(self) -> bool:
        """Whether other processes see the same."""
        ...

    def read(self, key: str) -> bytes | None: ...

    def write(
        self, key: str, data: bytes, *, ttl_s: float, owner: str = "", if_absent: bool = False, if_present: bool = False
    ) -> bool:
        """Whether it was written: with `if_absent` not where something stands there already, with `if_present` only there. `owner`: at
        whose expense it is kept."""
        ...

    def renew(self, key: str, ttl_s: float) -> bool:
        """Whether something stands there, all of which from now on does so long."""
        ...

    def delete(self, key: str) -> None: ...

    def add(self, index: str, member: str, *, ttl_s: float) -> None:
        """`member` is in the list `index` for so long from now."""
        ...

    def members(self, index: str) -> Sequence[str]:
        """Whose time ends first comes first."""
        ...

    def remove(self, index: str, member: str) -> None: ...

    def close(self) -> None:
        """Idempotent."""
        ...


@dataclass(slots=True)
class _Entry:
    data: bytes
    owner: str
    until: float

    @property
    def num_bytes(self) -> int:
        return len(self.data) + ENTRY_BYTES


class MemoryStore:
    """A `Store` of one process. Over `capacity_bytes`, who keeps the most makes room, and the newest value is kept whatever its size.
    `now`: a monotonic clock in seconds."""

    is_shared = False

    def __init__(self, capacity_bytes: int, now: Callable[[], float] = time.monotonic) -> None:
        self._capacity_bytes, self._now, self._lock = capacity_bytes, now, threading.Lock()
        self._entries: dict[str, _Entry] = {}  # what was asked for longest ago comes first
        self._indexes: dict[str, dict[str, float]] = {}
        self._num_added, self._num_left = 0, 0  # since indexes were last rid of what is over; what was left then

    def read(self, key: str) -> bytes | None:
        with self._lock:
            entry = self._standing(key)
            if entry is None:
                return None
            self._entries[key] = self._entries.pop(key)
            return entry.data

    def write(
        self, key: str, data: bytes, *, ttl_s: float, owner: str = "", if_absent: bool = False, if_present: bool = False
    ) -> bool:
        with self._lock:
            if if_absent and self._standing(key) is not None:
                return False
            if if_present and self._standing(key) is None:
                return False
            self._entries.pop(key, None)
            self._entries[key] = _Entry(data, owner, self._now() + ttl_s)
            self._make_room(key)
            return True

    def renew(self, key: str, ttl_s: float) -> bool:
        with self._lock:
            entry = self._standing(key)
            if entry is not None:
                entry.until = self._now() + ttl_s
            return entry is not None

    def delete(self, key: str) -> None:
        with self._lock:
            self._entries.pop(key, None)

    def add(self, index: str, member: str, *, ttl_s: float) -> None:
        with self._lock:
            self._indexes.setdefault(index, {})[member] = self._now() + ttl_s
            self._num_added += 1
            if self._num_added >= max(ADDED, self._num_left):  # as many as are looked through
                self._num_left = sum(len(self._rid(name)) for name in list(self._indexes))
                self._num_added = 0

    def members(self, index: str) -> Sequence[str]:
        with self._lock:
            left = self._rid(index)
            return sorted(left, key=left.__getitem__)

    def remove(self, index: str, member: str) -> None:
        with self._lock:
            members = self._indexes.get(index, {})
            members.pop(member, None)
            if not members:
                self._indexes.pop(index, None)

    def close(self) -> None:
        """Holds nothing but memory."""

    def _rid(self, index: str) -> dict[str, float]:
        """What is left of it without those whose time is over."""
        now = self._now()
        left = {member: until for member, until in self._indexes.pop(index, {}).items() if until > now}
        if left:
            self._indexes[index] = left
        return left

    def _standing(self, key: str) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None and entry.until <= self._now():
            del self._entries[key]
            return None
        return entry

    def _make_room(self, newest: str) -> None:
        kept = Counter[str]()
        for entry in self._entries.values():
            kept[entry.owner] += entry.num_bytes
        while kept.total() > self._capacity_bytes and len(self._entries) > 1:
            gone = self._first_to_go(newest, kept)
            kept[self._entries[gone].owner] -= self._entries.pop(gone).num_bytes

    def _first_to_go(self, newest: str, kept: Counter[str]) -> str:
        now = self._now()
        others = {key: entry for key, entry in self._entries.items() if key != newest}
        over = next((key for key, entry in others.items() if entry.until <= now), None)
        return over or max(others, key=lambda key: kept[others[key].owner])  # of several the first, which is the oldest
