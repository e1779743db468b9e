"""How others choose a replica, as pure choosers: round robin, Serve's two random choices over all pools as one set, and least
outstanding. They know how many requests each replica has in hand, and nothing of their weight or of its speed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

ROUND_ROBIN, TWO_CHOICES, LEAST_OUTSTANDING = "round robin", "two choices", "least outstanding"
SERVES_OWN_CAP = 5  # `max_ongoing_requests` where nobody sets it


def cap_of(max_rows: int) -> int:
    """On ongoing requests, for Serve's two choices: Serve's own, or two full batches where that is more."""
    return max(SERVES_OWN_CAP, 2 * max_rows)


class Chooser(Protocol):
    def choose(self, ongoing: Sequence[int]) -> int | None:
        """`ongoing`: of each replica, requests that it has in hand. The replica's place; None: the request waits at the caller, until
        one of them has ended."""
        ...


class RoundRobin:
    def __init__(self) -> None:
        self._turn = -1

    def choose(self, ongoing: Sequence[int]) -> int | None:
        self._turn = (self._turn + 1) % len(ongoing)
        return self._turn


class TwoChoices:
    """As Ray Serve's `PowerOfTwoChoicesRequestRouter`: of two replicas at random the one with fewer in hand, where it has fewer than
    `max_ongoing`."""

    def __init__(self, max_ongoing: int, *, seed: int = 0) -> None:
        self._max_ongoing, self._random = max_ongoing, random.Random(seed)

    def choose(self, ongoing: Sequence[int]) -> int | None:
        places = self._random.sample(range(len(ongoing)), min(2, len(ongoing)))
        best = min(places, key=lambda place: ongoing[place])
        return best if ongoing[best] < self._max_ongoing else None


class LeastOutstanding:
    """Among equals at random, or the first one gets everything at low load."""

    def __init__(self, *, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def choose(self, ongoing: Sequence[int]) -> int | None:
        fewest = min(ongoing)
        return self._random.choice([place for place, count in enumerate(ongoing) if count == fewest])
