"""Writes that wait for a slow store, bounded by bytes: what doesn't fit is refused, so that callers never wait.

Knows no store: somebody's thread takes batches and carries them out.
"""

import threading
from collections import deque
from dataclasses import dataclass

_WRITE_BYTES = 256  # charged beside the data, so that deletes are bounded too


@dataclass(frozen=True, slots=True)
class Write:
    """Store `data` under `key`, for `ttl_ms` (None: for good); None: delete it. `parts`: what is to be stored before, under keys of their
    own. `kind`: of value, where it is one."""

    key: str
    data: bytes | None
    ttl_ms: int | None = None
    parts: tuple[tuple[str, bytes | memoryview], ...] = ()
    kind: str = ""

    @property
    def num_bytes(self) -> int:
        return _WRITE_BYTES + len(self.data or b"") + sum(len(part) for _, part in self.parts)


class WriteQueue:
    """First in, first out; thread-safe. `capacity_bytes` bounds what waits and what was taken but isn't done."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._waiting: deque[Write] = deque()
        self._num_bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def wait_room(self, num_bytes: int, timeout_s: float) -> bool:
        """Whether there is room within `timeout_s`: a hint that saves encoding what `offer` would refuse."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed or self._has_room(num_bytes), timeout_s) and not self._closed

    def offer(self, write: Write) -> bool:
        """False: no room, or closed."""
        with self._changed:
            if self._closed or self._num_bytes + write.num_bytes > self._capacity_bytes:
                return False
            self._waiting.append(write)
            self._num_bytes += write.num_bytes
            self._changed.notify_all()
            return True

    def take(self, max_bytes: int) -> list[Write]:
        """Waits for writes; the oldest ones that fit into `max_bytes`, at least one. Empty: closed, and nothing is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            batch: list[Write] = []
            taken = 0
            while self._waiting and (not batch or taken + self._waiting[0].num_bytes <= max_bytes):
                batch.append(self._waiting.popleft())
                taken += batch[-1].num_bytes
            return batch

    def done(self, batch: list[Write]) -> None:
        """The batch is carried out, or lost."""
        with self._changed:
            self._num_bytes -= sum(write.num_bytes for write in batch)
            self._changed.notify_all()

    def wait_empty(self, timeout_s: float) -> bool:
        """Whether everything is done within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._num_bytes == 0, timeout_s)

    def close(self) -> None:
        """Refuses new writes; those that wait can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _has_room(self, num_bytes: int) -> bool:
        return self._num_bytes + num_bytes + _WRITE_BYTES <= self._capacity_bytes
