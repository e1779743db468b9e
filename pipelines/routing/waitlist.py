"""Places for those who were refused for want of time and told when to come back: who comes then finds room, though others ask all the
while.

Decides how long whoever is refused is to stay away, and whether a newcomer would take what is held for others. The line outside goes on
from the line inside: each place is expected to be reached once all that is before it was let in. Nothing stands idle for it: whoever finds
more room than is held is let in. A place is known by what is asked (the same request again, of the same tenant), and is given up a little
after its time; what of the places is in fact taken, and by how much waits are longer than expected, is learned. Between tenants as inside:
of another's places a tenant waits for as much as its own and its request itself come to. Pure, one a process; on one thread; knows no
stages and no clock.
"""

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

MARGIN, MARGIN_S, MAX_MARGIN_S = 0.1, 0.25, 2.0
"""So much later than a place is expected to be reached is told: a part of the wait, at least and at most so many seconds."""
GRACE_S = 5.0
"""How much later than told a place is still held."""
MAX_HELD = 0.5
"""At most this part of the time that a request has is left over to others."""
RECENT = 0.02
"""How much one that came, or didn't, counts for how many do."""
MIN_KEPT = 0.05
LONGER, SHORTER, MAX_STRETCH = 1.1, 0.997, 4.0
"""What becomes of the time that a place is given where whoever came found no room, or found some: three of a hundred find none."""
MAX_PLACES = 10_000
"""Of a process. Who is refused beyond that is told a time, and nothing is held."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks, and what. `key`: tells the same request when it comes again; empty: it will not be told. `takes`: by stage, for how
    many seconds all that stands in line there is later because of it. `is_urgent`: what is not holds nothing up that is."""

    key: str
    tenant: int
    takes: Mapping[str, float]
    is_urgent: bool = True


@dataclass(slots=True, eq=False)
class _Place:
    """`at`: when it is expected to be reached; `until`: held. `in_lines`: of the stages, and for how many seconds in each. `is_again`: its
    owner came when told to, and found no room."""

    asked: Asked
    at: float
    until: float
    in_lines: Mapping[str, float]
    is_again: bool = False
    is_due: bool = False


_Held: TypeAlias = dict[tuple[int, bool], float]
"""Seconds, by tenant and whether they are urgent."""


@dataclass(slots=True)
class _Line:
    """Before a stage: what is held of it, and what of that by those whose time has come. `stretch`: by how much longer than expected places
    are taken to hold a stage up; `kept`: which part of them is taken."""

    stretch: float = 1.0
    kept: float = 1.0
    all: _Held = field(default_factory=dict)
    due: _Held = field(default_factory=dict)

    def before_s(self, held: _Held, asked: Asked, own_s: float) -> float:
        """Seconds of it that go before what is asked."""
        if not held:
            return 0.0
        by_tenant: dict[int, float] = {}
        for (tenant, is_urgent), seconds in held.items():
            if is_urgent or not asked.is_urgent:
                by_tenant[tenant] = by_tenant.get(tenant, 0.0) + seconds
        own = by_tenant.pop(asked.tenant, 0.0)
        return self.kept * (own + sum(min(seconds, own + own_s) for seconds in by_tenant.values()))


class Waitlist:
    def __init__(self, *, max_places: int = MAX_PLACES) -> None:
        self._max = max_places
        self._lines: dict[str, _Line] = {}
        self._known: dict[tuple[int, str], deque[_Place]] = {}
        self._coming: list[_Place] = []  # by when they are reached
        self._due: dict[_Place, None] = {}

    def __len__(self) -> int:
        return len(self._coming) + len(self._due)

    def wait_s(self, asked: Asked, late_s: float, now: float, *, allowed_s: float, is_idle: bool = False) -> float:
        """For how long it is to stay away; 0: it is let in. `late_s`: by how much it would be later than `allowed_s` if it were let in now
        (under 0: how much time it has left over); `is_idle`: nothing is before it, so that waiting makes it no sooner."""
        self._pass_time(now)
        place = self._take_own(asked)
        is_let_in = is_idle or (late_s if place is not None else late_s + min(self._due_s(asked), MAX_HELD * allowed_s)) <= 0
        if place is not None:
            self._learn(place, is_let_in=is_let_in)
        if is_let_in:
            return 0.0
        if place is not None:
            return self._hold(asked, now, late_s, place.in_lines, is_again=True)
        takes = {stage: self._stretch(stage) * seconds for stage, seconds in asked.takes.items()}
        ahead_s = max((line.before_s(line.all, asked, takes[stage]) for stage, line in self._lines_of(asked)), default=0.0)
        return self._hold(asked, now, max(0.0, late_s + ahead_s), takes)

    def _due_s(self, asked: Asked) -> float:
        """How much time it must leave over to those whose time has come."""
        found_s = 0.0
        for stage, line in self._lines_of(asked):
            if due_s := line.before_s(line.due, asked, asked.takes[stage]):
                found_s = max(found_s, due_s + asked.takes[stage])
        return found_s

    def _lines_of(self, asked: Asked) -> list[tuple[str, _Line]]:
        return [(stage, self._lines[stage]) for stage in asked.takes if stage in self._lines]

    def _stretch(self, stage: str) -> float:
        return self._lines[stage].stretch if stage in self._lines else 1.0

    def _hold(self, asked: Asked, now: float, wait_s: float, takes: Mapping[str, float], *, is_again: bool = False) -> float:
        """Returns what is told."""
        told_s = wait_s + max(MARGIN_S, min(MARGIN * wait_s, MAX_MARGIN_S))
        if not asked.key or len(self) >= self._max:
            return told_s
        place = _Place(asked, now + wait_s, now + told_s + GRACE_S, takes, is_again)
        self._known.setdefault((asked.tenant, asked.key), deque()).append(place)
        for stage, seconds in takes.items():
            _add(self._lines.setdefault(stage, _Line()).all, asked, seconds)
        if is_again:
            self._comes_due(place)
        else:
            insort(self._coming, place, key=_at)
        return told_s

    def _pass_time(self, now: float) -> None:
        num_due = bisect_right(self._coming, now, key=_at)
        for place in self._coming[:num_due]:
            self._comes_due(place)
        del self._coming[:num_due]
        while self._due and (first := next(iter(self._due))).until < now:
            self._give_up(first)
            if not first.is_again:
                self._count(first, kept=0.0)

    def _comes_due(self, place: _Place) -> None:
        place.is_due = True
        self._due[place] = None
        for stage, seconds in place.in_lines.items():
            _add(self._lines[stage].due, place.asked, seconds)

    def _take_own(self, asked: Asked) -> _Place | None:
        """If its time has come."""
        waiting = self._known.get((asked.tenant, asked.key), ()) if asked.key else ()
        place = next((one for one in waiting if one.is_due), None)
        if place is not None:
            self._give_up(place)
        return place

    def _give_up(self, place: _Place) -> None:
        del self._due[place]
        key = (place.asked.tenant, place.asked.key)
        self._known[key].remove(place)
        if not self._known[key]:
            del self._known[key]
        for stage, seconds in place.in_lines.items():
            _add(self._lines[stage].all, place.asked, -seconds)
            _add(self._lines[stage].due, place.asked, -seconds)

    def _learn(self, place: _Place, *, is_let_in: bool) -> None:
        self._count(place, kept=1.0)
        for stage in place.in_lines:
            line = self._lines[stage]
            line.stretch = max(1.0, min(MAX_STRETCH, line.stretch * (SHORTER if is_let_in else LONGER)))

    def _count(self, place: _Place, *, kept: float) -> None:
        for stage in place.in_lines:
            line = self._lines[stage]
            line.kept = max(MIN_KEPT, line.kept + RECENT * (kept - line.kept))


def _at(place: _Place) -> float:
    return place.at


def _add(held: _Held, asked: Asked, seconds: float) -> None:
    key = asked.tenant, asked.is_urgent
    left = held.get(key, 0.0) + seconds
    if left > 1e-9:
        held[key] = left
    else:
        held.pop(key, None)
