"""Virtual time: what happens next, and when it is.

Decides the order of events, also of those that happen at the same moment, so that it depends on what happens and never on who was told
first. Knows no devices.

Every duration is a whole number of `QUANTUM_S`. So sums and multiples of them are exact in a float (up to three months), and k steps in
a row end at the same moment as one advance of k steps.
"""

import heapq
import itertools
from collections.abc import Callable
from typing import Any

QUANTUM_S = 2.0**-30  # about a nanosecond

ARRIVES, DEVICE, ANSWERS, CONTROL = range(4)
"""At the same moment: what comes to a replica, then what its device ends, then what a caller hears, then who looks at all of it."""


def quantized(seconds: float) -> float:
    return round(seconds / QUANTUM_S) * QUANTUM_S


class Clock:
    """`now`: seconds since the beginning."""

    __slots__ = ("_events", "_has_stopped", "_serial", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = itertools.count()
        self._has_stopped = False

    def at(self, when: float, order: int, who: int, do: Callable[..., None], *given: Any) -> None:
        """`do(*given)` at that moment. `order`: one of those above; `who`: of those of the same order the lowest goes first."""
        heapq.heappush(self._events, (when, order, who, next(self._serial), do, given))

    def run(self) -> None:
        """Everything, until nothing is to come or `stop` is called."""
        events, pop = self._events, heapq.heappop
        while events and not self._has_stopped:
            self.now, _, _, _, do, given = pop(events)
            do(*given)

    def stop(self) -> None:
        """What is to come is of no interest any more."""
        self._has_stopped = True
