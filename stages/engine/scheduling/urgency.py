"""How pressing one entry is beside another of its tenant: by priority, and by how much of its time is over. Pure.

Decides who makes way and how often a row is stepped, not whose turn it is of several tenants.
"""

from typing import Any, TypeVar

from stages.engine.scheduling.waiting import Entry

W = TypeVar("W")

MIN_WEIGHT = 0.5  # a row of low priority, with all its time left
MAX_WEIGHT = 4.0  # a row of high priority, close to its deadline
CLOSE = 0.75  # of the time that an entry was allowed: once so much is used up, its deadline is close


def makes_way(row: Entry[W], newcomer: Entry[W], now: float) -> bool:
    """Whether a running entry is to wait for one that waits: it is of lower priority, or the newcomer's deadline is close and
    it is the newcomer's turn. A deadline alone gives no right over others' work, or else a client would only have to choose a
    short one: the newcomer must have come before the row (which was let past it), and the row have more than twice as much
    time left (so that the two never take turns at it).
    """
    if row.priority != newcomer.priority:
        return row.priority > newcomer.priority
    is_turn = newcomer.arrival < row.arrival and row.deadline - now > 2 * (newcomer.deadline - now)
    return is_turn and _used(newcomer, now) >= CLOSE


def weight(entry: Entry[W], now: float) -> float:
    """How often a row takes part in steps, compared to others: by its priority 0.5, 1 or 2, up to twice that as its deadline
    comes near.
    """
    return weighs(*pressed(entry), now)


def pressed(entry: Entry[Any]) -> tuple[float, float, float]:
    """What its weight follows from, at any time: by its priority, when it came, and how long it may take."""
    return 2.0 ** -max(-1, min(1, entry.priority)), entry.arrival, entry.deadline - entry.arrival


def weighs(by_priority: float, arrival: float, allowed: float, now: float) -> float:
    """Of `pressed`."""
    used = (now - arrival) / allowed if allowed > 0 else 1.0
    return by_priority * (1.0 + (1.0 if used > 1.0 else used if used > 0.0 else 0.0))


def _used(entry: Entry[Any], now: float) -> float:
    """How much of the time that it was allowed is over: 0 to 1."""
    allowed = entry.deadline - entry.arrival
    used = (now - entry.arrival) / allowed if allowed > 0 else 1.0
    return max(0.0, min(1.0, used))
