"""When to stop asking a store that doesn't answer, and when to try it again.

Pure but for its lock: time comes in as `now` (seconds of any clock that doesn't run backwards). Knows no store.
"""

import threading


class Breaker:
    """Closed: everybody may try. After `max_failures` in a row it opens: nobody may, for `pause_s`. Then one may try, and
    the others wait for what becomes of it: success closes the breaker, failure (or silence for `pause_s`) opens it again."""

    def __init__(self, max_failures: int = 3, pause_s: float = 2.0) -> None:
        if max_failures < 1 or pause_s <= 0:
            raise ValueError(f"max_failures {max_failures} must be at least 1 and pause_s {pause_s} positive")
        self._max_failures, self._pause_s = max_failures, pause_s
        self._lock = threading.Lock()
        self._failures = 0
        self._next_try_at: float | None = None  # None: the breaker is closed

    def is_open(self, now: float) -> bool:
        """Whether trying is pointless now. Takes nobody's turn."""
        with self._lock:
            return self._next_try_at is not None and now < self._next_try_at

    @property
    def is_closed(self) -> bool:
        """Whether everybody may try."""
        with self._lock:
            return self._next_try_at is None

    @property
    def num_failures(self) -> int:
        """In a row, up to now."""
        with self._lock:
            return self._failures

    def allows(self, now: float) -> bool:
        """Whether the caller may try now. True obliges it to tell `succeeded` or `failed`."""
        with self._lock:
            if self._next_try_at is None:
                return True
            if now < self._next_try_at:
                return False
            self._next_try_at = now + self._pause_s  # this caller's turn; the others wait
            return True

    def succeeded(self) -> bool:
        """True if this closed the breaker."""
        with self._lock:
            was_open = self._next_try_at is not None
            self._failures, self._next_try_at = 0, None
            return was_open

    def failed(self, now: float) -> bool:
        """True if this opened the breaker, which was closed."""
        with self._lock:
            self._failures += 1
            if self._failures < self._max_failures:
                return False
            was_closed = self._next_try_at is None
            self._next_try_at = now + self._pause_s
            return was_closed
