"""Places for those who were refused for want of time and told when to come back: who comes then finds room, though others ask all the
while.

Decides how long whoever is refused is to stay away, and whether a newcomer would take what is held for others. The line outside goes on
from the line inside: each place is expected to be reached once all that is before it was let in. Nothing stands idle for it: whoever finds
more room than is held is let in. A place is known by what is asked (the same request again, of the same tenant), and is given up a little
after its time; what of the places is in fact taken, and by how much waits are longer than expected, is learned. Between tenants as inside:
of another's places a tenant waits for as much as its own and its request itself come to. What other processes hold is held here, too, as
far as it was heard (`hear`): who comes back may come to any of them. Pure, one a process; on one thread; knows no stages and no clock.
"""

import math
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count, islice
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
"""Who is refused beyond that is told a time, and nothing is held."""
MAX_TOLD = 2000
"""Of a process's places, to others."""
HEARD_S = 15.0
"""After so long others have heard what was told, and who told nothing is gone."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks, and what. `key`: tells the same request when it comes again; empty: it will not be told. `takes`: by stage, for how
    many seconds all that stands in line there is later because of it. `is_urgent`: what is not holds nothing up that is."""

    key: str
    tenant: int
    takes: Mapping[str, float]
    is_urgent: bool = True


@dataclass(frozen=True, slots=True)
class ToldPlace:
    """A place, as its process tells others. `number`: its own there; seconds from when it is told: `in_s` until it is reached, `for_s`
    until it is given up. `asked.takes`: as it is held."""

    number: int
    asked: Asked
    in_s: float
    for_s: float


@dataclass(frozen=True, slots=True)
class Told:
    """What a process tells: the places that it holds, and by process the numbers of those of others that were taken there."""

    places: Sequence[ToldPlace] = ()
    taken: Mapping[str, Collection[int]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Place:
    """`at`: when it is expected to be reached; `until`: held. `in_lines`: of the stages, and for how many seconds in each. `is_again`: its
    owner came when told to, and found no room. `process`: that holds it, under the number; empty: this one."""

    number: int
    asked: Asked
    at: float
    until: float
    in_lines: Mapping[str, float]
    is_again: bool = False
    process: str = ""
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
        self._numbers = count()
        self._of_others: dict[str, dict[int, _Place]] = {}
        self._taken: dict[tuple[str, int], float] = {}  # of others', and when
        self._refused_at = -math.inf

    def __len__(self) -> int:
        return len(self._coming) + len(self._due)

    def is_in_use(self, now: float) -> bool:
        """Whether anybody was refused lately, or is held a place: else others need not be heard."""
        return len(self) > 0 or now - self._refused_at < HEARD_S

    def told(self, now: float) -> Told:
        """To other processes, again and again: of its own places those that are reached soonest."""
        self._pass_time(now)
        self._taken = {which: at for which, at in self._taken.items() if now - at < HEARD_S}
        own = (place for place in (*self._due, *self._coming) if not place.process)
        places = [_told_of(place, now) for place in islice(own, MAX_TOLD)]
        taken: dict[str, list[int]] = {}
        for process, number in self._taken:
            taken.setdefault(process, []).append(number)
        return Told(places, taken)

    def hear(self, others: Mapping[str, Told], now: float, *, own: str) -> None:
        """What every other process told last; of one that is not among them nothing is held any more. `own`: this one's name there."""
        self._pass_time(now)
        taken = {number for told in others.values() for number in told.taken.get(own, ())}
        for place in [one for one in (*self._due, *self._coming) if not one.process and one.number in taken]:
            self._remove(place)
            self._count(place, kept=1.0)
        for process in self._of_others.keys() - others.keys():
            self._hear(process, (), now)
        for process, told in others.items():
            self._hear(process, told.places, now)

    def _hear(self, process: str, told: Sequence[ToldPlace], now: float) -> None:
        known = self._of_others.setdefault(process, {})
        still = {place.number for place in told}
        for number in [number for number in known if number not in still]:
            self._remove(known[number])
        for one in told:
            if one.number not in known and (process, one.number) not in self._taken and len(self) < self._max:
                place = _Place(one.number, one.asked, now + one.in_s, now + one.for_s, one.asked.takes, process=process)
                known[one.number] = place
                self._add(place)
        if not known:
            del self._of_others[process]

    def wait_s(self, asked: Asked, late_s: float, now: float, *, allowed_s: float, is_idle: bool = False) -> float:
        """For how long it is to stay away; 0: it is let in. `late_s`: by how much it would be later than `allowed_s` if it were let in now
        (under 0: how much time it has left over); `is_idle`: nothing is before it, so that waiting makes it no sooner."""
        self._pass_time(now)
        place = self._take_own(asked, now)
        is_let_in = is_idle or (late_s if place is not None else late_s + min(self._due_s(asked), MAX_HELD * allowed_s)) <= 0
        if place is not None:
            self._learn(place, is_let_in=is_let_in)
        if is_let_in:
            return 0.0
        self._refused_at = now
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
        place = _Place(next(self._numbers), asked, now + wait_s, now + told_s + GRACE_S, takes, is_again)
        self._add(place)
        if is_again:
            self._coming.remove(place)
            self._comes_due(place)
        return told_s

    def _add(self, place: _Place) -> None:
        self._known.setdefault((place.asked.tenant, place.asked.key), deque()).append(place)
        for stage, seconds in place.in_lines.items():
            _add(self._lines.setdefault(stage, _Line()).all, place.asked, seconds)
        insort(self._coming, place, key=_at)

    def _pass_time(self, now: float) -> None:
        num_due = bisect_right(self._coming, now, key=_at)
        for place in self._coming[:num_due]:
            self._comes_due(place)
        del self._coming[:num_due]
        while self._due and (first := next(iter(self._due))).until < now:
            self._remove(first)
            if not first.is_again and not first.process:
                self._count(first, kept=0.0)

    def _comes_due(self, place: _Place) -> None:
        place.is_due = True
        self._due[place] = None
        for stage, seconds in place.in_lines.items():
            _add(self._lines[stage].due, place.asked, seconds)

    def _take_own(self, asked: Asked, now: float) -> _Place | None:
        """If its time has come."""
        waiting = self._known.get((asked.tenant, asked.key), ()) if asked.key else ()
        place = next((one for one in waiting if one.is_due), None)
        if place is not None:
            self._remove(place)
            if place.process:
                self._taken[place.process, place.number] = now
        return place

    def _remove(self, place: _Place) -> None:
        key = (place.asked.tenant, place.asked.key)
        self._known[key].remove(place)
        if not self._known[key]:
            del self._known[key]
        if place.process:
            self._of_others[place.process].pop(place.number, None)
        if place.is_due:
            del self._due[place]
        else:
            self._coming.remove(place)
        for stage, seconds in place.in_lines.items():
            _add(self._lines[stage].all, place.asked, -seconds)
            if place.is_due:
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


def _told_of(place: _Place, now: float) -> ToldPlace:
    asked = replace(place.asked, takes=place.in_lines)
    return ToldPlace(place.number, asked, place.at - now, place.until - now)


def _add(held: _Held, asked: Asked, seconds: float) -> None:
    key = asked.tenant, asked.is_urgent
    left = held.get(key, 0.0) + seconds
    if left > 1e-9:
        held[key] = left
    else:
        held.pop(key, None)


@cache
def waitlist_of_this_process() -> Waitlist:
    """Of all who ask stages from here."""
    return Waitlist()
