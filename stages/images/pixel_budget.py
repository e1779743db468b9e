"""How many pixels may be in decoding at a time, in one process, whoever decodes: memory goes by them, not by files or requests.

Who doesn't fit waits, and is refused after a while; whose turn it is, is `stages/concurrency/fair_room.py`. Decides nothing about
files. A pixel takes 4 to 16 bytes while it is decoded, by format.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from stages.concurrency.fair_room import FairRoom, Waiting
from stages.concurrency.thread_pool import TENANT
from stages.contract.errors import Overloaded, TooLarge
from stages.contract.wanted import stop_if_unwanted

MAX_PIXELS = 50_000_000
MAX_WAIT_S = 10.0
RETRY_AFTER_S = 1.0
_LOOK_EVERY_S = 0.05  # whether what waits is still wanted: nobody tells


class PixelBudget:
    """For any number of threads. They wait for the tenant that each works for (`TENANT`)."""

    def __init__(self, max_pixels: int = MAX_PIXELS, *, max_wait_s: float = MAX_WAIT_S) -> None:
        self._room, self._max_wait_s = FairRoom(max_pixels), max_wait_s
        self._changed = threading.Condition()

    def limit(self, max_pixels: int) -> None:
        """What comes from now on is judged by this."""
        with self._changed:
            self._room.limit(max_pixels)
            self._go_on()

    @property
    def max_pixels(self) -> int:
        return self._room.size

    @property
    def held_pixels(self) -> int:
        return self._room.held

    @contextmanager
    def hold(self, pixels: int, *, param: str) -> Iterator[None]:
        """Room for so many pixels, for as long as they are used. Waits for it.

        Raises `TooLarge` for what never fits, naming `param`; `Overloaded` for what didn't in time; `Cancelled` once nobody wants it.
        """
        with self._changed:
            waiting = self._room.wait(TENANT.get(), pixels)
            try:
                self._go_on()
                self._wait_for_room(waiting, param)
            except BaseException:
                self._leave(waiting)
                raise
        try:
            yield
        finally:
            with self._changed:
                self._leave(waiting)

    def _wait_for_room(self, waiting: Waiting, param: str) -> None:
        until = time.monotonic() + self._max_wait_s
        while True:
            stop_if_unwanted()
            if waiting.is_let_in:
                return
            self._refuse_what_never_fits(waiting.size, param)
            if time.monotonic() >= until:
                raise Overloaded(
                    f"{self.held_pixels} pixels of images are being decoded here, and at most {self.max_pixels} may be at a time "
                    f"(limits.pixels_in_flight); room for {waiting.size} did not come within {self._max_wait_s:g} s",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._changed.wait(_LOOK_EVERY_S)

    def _leave(self, waiting: Waiting) -> None:
        self._room.leave(waiting)
        self._go_on()

    def _go_on(self) -> None:
        self._room.let_in()
        self._changed.notify_all()

    def _refuse_what_never_fits(self, pixels: int, param: str) -> None:
        if pixels > self.max_pixels:
            message = f"{param}: the image has {pixels} pixels; at most {self.max_pixels} can be decoded here (limits.pixels_in_flight)"
            raise TooLarge(message, param=param)


@cache
def pixels_of_this_process() -> PixelBudget:
    """What all stages and routes of this process decode within."""
    return PixelBudget()
