"""How many pixels may be in decoding at a time, in one process, whoever decodes: memory goes by them, not by files or requests.

Who doesn't fit waits, in order of arrival, and is refused after a while. Decides nothing about files. A pixel takes 4 to 16 bytes
while it is decoded, by format.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from stages.contract.errors import Overloaded, TooLarge
from stages.contract.wanted import stop_if_unwanted

MAX_PIXELS = 50_000_000
MAX_WAIT_S = 10.0
RETRY_AFTER_S = 1.0
_LOOK_EVERY_S = 0.05  # whether what waits is still wanted: nobody tells


class PixelBudget:
    """For any number of threads."""

    def __init__(self, max_pixels: int = MAX_PIXELS, *, max_wait_s: float = MAX_WAIT_S) -> None:
        self.max_pixels, self._max_wait_s = max_pixels, max_wait_s
        self._held = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    def limit(self, max_pixels: int) -> None:
        """What comes from now on is judged by this."""
        with self._changed:
            self.max_pixels = max_pixels
            self._changed.notify_all()

    @property
    def held_pixels(self) -> int:
        return self._held

    @contextmanager
    def hold(self, pixels: int, *, param: str) -> Iterator[None]:
        """Room for so many pixels, for as long as they are used. Waits for it.

        Raises `TooLarge` for what never fits, naming `param`; `Overloaded` for what didn't in time; `Cancelled` once nobody wants it.
        """
        self._take(pixels, param)
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()

    def _take(self, pixels: int, param: str) -> None:
        ticket, until = object(), time.monotonic() + self._max_wait_s
        with self._changed:
            self._waiting.append(ticket)
            try:
                while not self._may_begin(ticket, pixels, param):
                    if time.monotonic() >= until:
                        raise Overloaded(
                            f"{self._held} pixels of images are being decoded here, and at most {self.max_pixels} may be at a time "
                            f"(limits.pixels_in_flight); room for {pixels} did not come within {self._max_wait_s:g} s",
                            retry_after_s=RETRY_AFTER_S,
                        )
                    self._changed.wait(_LOOK_EVERY_S)
                self._held += pixels
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def _may_begin(self, ticket: object, pixels: int, param: str) -> bool:
        if pixels > self.max_pixels:
            message = f"{param}: the image has {pixels} pixels; at most {self.max_pixels} can be decoded here (limits.pixels_in_flight)"
            raise TooLarge(message, param=param)
        stop_if_unwanted()
        return self._waiting[0] is ticket and self._held + pixels <= self.max_pixels


@cache
def pixels_of_this_process() -> PixelBudget:
    """What all stages and routes of this process decode within."""
    return PixelBudget()
