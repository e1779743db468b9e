"""Gives memory that large bodies have left back to the system. glibc keeps what was freed in pieces, in as many arenas as threads have
asked for some, and takes more beside it: after some hundred bodies of 31 MiB a process that holds nothing was seen to keep 3 GB, and more
after each hundred.

Elsewhere than on Linux with glibc this does nothing: there is no such call. Knows nothing of bodies.
"""

import asyncio
import ctypes
import threading
from collections.abc import Callable

MIN_BYTES = 64 * 2**20
"""So much must have been freed since the last time: it is not for nothing that freed memory is kept."""
PAUSE_S = 1.0


def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim  # which lets go of the interpreter's lock
    except (AttributeError, OSError, TypeError):
        return None


class FreedMemory:
    """On one event loop. `trim`: as `malloc_trim`, called on a thread of its own, `pause_s` after enough was freed; None: there is none."""

    def __init__(
        self, trim: Callable[[int], int] | None = _trim(), *, min_bytes: int = MIN_BYTES, pause_s: float = PAUSE_S
    ) -> None:
        self._trim, self._min_bytes, self._pause_s = trim, min_bytes, pause_s
        self._num_bytes = 0
        self._is_due = False

    def note(self, num_bytes: int) -> None:
        """So much is no longer held by anybody."""
        self._num_bytes += num_bytes
        if self._trim is not None and self._num_bytes >= self._min_bytes and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(self._pause_s, self._begin, self._trim)

    def _begin(self, trim: Callable[[int], int]) -> None:
        self._num_bytes = 0
        loop = asyncio.get_running_loop()

        def give_back() -> None:
            trim(0)
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._ended)

        try:
            threading.Thread(target=give_back, name="freed-memory", daemon=True).start()
        except RuntimeError:  # the system has no thread for it; another time
            self._is_due = False

    def _ended(self) -> None:
        """What was freed meanwhile counts for the next time."""
        self._is_due = False
        self.note(0)
