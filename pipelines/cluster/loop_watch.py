"""Whether an event loop still turns, seen from a thread of its own.

What a stage is asked before its work is taken in (`check`, `weigh`, `needs`) runs on the loop that calls arrive on; if one never comes
back, no call does, and Serve's own check of health only times out. Decides when the loop has stopped for good; what follows is handed
in. Knows no stage.
"""

import asyncio
import sys
import threading
import traceback
from collections.abc import Callable

PERIOD_S = 5.0
GRACE_S = 5.0  # of a process that was stopped as a whole, and goes on


class LoopWatch:
    """Of the loop that it is made on. `stopped` is called once, on the watch's thread, with where the loop's thread is."""

    def __init__(
        self, limit_s: float, stopped: Callable[[str], None], *, period_s: float = PERIOD_S, grace_s: float = GRACE_S
    ) -> None:
        self._loop, self._looping = asyncio.get_running_loop(), threading.get_ident()
        self._limit_s, self._stopped, self._period_s, self._grace_s = limit_s, stopped, period_s, grace_s
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="event loop watch", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(self._period_s):
            turned = threading.Event()
            try:
                self._loop.call_soon_threadsafe(turned.set)
            except RuntimeError:  # it is closed
                return
            if not (
                turned.wait(self._limit_s) or turned.wait(self._grace_s) or self._closed.is_set() or self._loop.is_closed()
            ):
                self._stopped(self._where())
                return

    def _where(self) -> str:
        frame = sys._current_frames().get(self._looping)
        return "".join(traceback.format_stack(frame)) if frame is not None else "nowhere"
