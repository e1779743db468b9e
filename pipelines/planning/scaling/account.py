"""What one replica has counted of one stage, as a line over time.

Replicas tell their totals about once a second, and whoever decides looks when it likes: one look finds nothing new, the next what two
seconds brought. Taken for what came between two looks that makes clumps of the steadiest arrivals, and clumps are no evidence. So totals
are read as they were a moment ago, between two tellings, in the time of who told them. Pure: decides nothing.
"""

import math
from bisect import bisect_right
from collections import deque
from typing import NamedTuple

from stages.contract.work import NO_WORK, Work

TOLD_WITHIN_S = 1.5
"""After so long a replica has told what it counted: it looks once a second."""
BEHIND_S = 2.0
"""So long ago totals are read: what was counted by then is known."""
FEW_DELAYS = 16
SILENT_AFTER = 1.5
"""Who told nothing for so many times as long as there was between two looks was silent: what came meanwhile came evenly."""


class Counted(NamedTuple):
    """Of items, up to a moment or in some time. `work`: of those that arrived."""

    work: Work = NO_WORK
    arrived: float = 0.0
    left: float = 0.0

    def plus(self, other: "Counted") -> "Counted":
        return Counted(self.work + other.work, self.arrived + other.arrived, self.left + other.left)

    def since(self, before: "Counted") -> "Counted":
        return Counted(self.work - before.work, self.arrived - before.arrived, max(0.0, self.left - before.left))

    def part(self, of_it: float) -> "Counted":
        return Counted(self.work * of_it, self.arrived * of_it, self.left * of_it)


class _Point(NamedTuple):
    at: float
    total: Counted


class Account:
    """`total`: what is taken for counted before it was heard of, `seconds` before `now`. `told_at`: when it was told, by the replica's
    clock; None: nobody knows, and that is the moment of the look."""

    def __init__(self, total: Counted, told_at: float | None, now: float, seconds: float) -> None:
        self._points = [_Point((now if told_at is None else told_at) - seconds, total)]
        self._behind_s = 0.0 if told_at is None else BEHIND_S
        self._delays: deque[float] = deque(maxlen=FEW_DELAYS)
        self._same_until = -math.inf
        self._read_until: float | None = None
        self._read_at = now
        self.heard_at = now

    @property
    def total(self) -> Counted:
        return self._points[-1].total

    def tell(self, total: Counted, told_at: float | None, now: float) -> None:
        """What is the latest that is known of it, new or not. Who told nothing new has counted nothing new, but for what it is yet to
        tell."""
        self.heard_at = now
        at, last = now if told_at is None else told_at, self._points[-1]
        if at > last.at:
            self._delays.append(now - at)
            if last.at < self._same_until < at:
                self._points.append(_Point(self._same_until, last.total))
            self._points.append(_Point(at, total))
        self._same_until = now - min(self._delays, default=0.0) - TOLD_WITHIN_S

    def came(self, now: float, seconds: float) -> Counted:
        """Since the last look, which was so many `seconds` ago."""
        until = now - min(self._delays, default=0.0) - self._behind_s
        before = until - seconds if self._read_until is None else self._read_until
        if now - self._read_at > SILENT_AFTER * seconds or before - until > BEHIND_S:  # silent, or its clock stood still
            before = until - seconds
        until = max(until, before)
        came = self._until(until).since(self._until(before))
        self._read_until, self._read_at = until, now
        kept = bisect_right(self._points, until, key=lambda point: point.at)
        self._points = self._points[max(0, kept - 1) :]
        return came

    def _until(self, at: float) -> Counted:
        after = bisect_right(self._points, at, key=lambda point: point.at)
        if after == 0 or after == len(self._points):
            return self._points[max(0, after - 1)].total
        first, last = self._points[after - 1 : after + 1]
        return first.total.plus(last.total.since(first.total).part((at - first.at) / (last.at - first.at)))
