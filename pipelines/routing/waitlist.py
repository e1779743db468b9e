"""Places for those who were refused for want of time and told when to come back: who comes then finds room, though others ask all the
while.

Decides how long whoever is refused is to stay away, and whether a newcomer would take what is held for others. The line outside goes on
from the line inside: each place is expected to be reached once all that is before it was let in, and who comes for it need not be as sure
to end in time as a newcomer. Nothing stands idle for it: whoever finds more room than is held is let in. A place is known by what is asked
(the same request again, of the same tenant, with as much time), and is given up a little after its time; what of its places a tenant in
fact takes, and by how much its waits are longer than expected, is learned.

Between tenants as inside: of another's places a tenant waits for as much as its own and its request itself come to, and none holds more
places than it leaves to others. What other processes hold is held here, too, as far as it was heard (`hear`): who comes back may come to
any of them. Pure, one a process; on one thread; knows no stages and no clock.
"""

import math
from bisect import bisect_right, insort
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from heapq import heapify, heappop, heappush
from itertools import count, islice
from typing import TypeAlias

MARGIN, MARGIN_S, MAX_MARGIN_S = 0.1, 0.25, 2.0
"""So much later than a place is expected to be reached is told: a part of the wait, at least and at most so many seconds."""
GRACE_S = 5.0
"""How much later than told a place is still held."""
MAX_HELD = 0.5
"""At most this part of the time that a request has is left over to others."""
MAX_WAIT_S = 3600.0
"""Who is told a longer one is held no place."""
RECENT = 0.02
"""How much one that came, or didn't, counts for how many do."""
MIN_KEPT = 0.05
LONGER, SHORTER, MAX_STRETCH = 1.1, 0.997, 4.0
"""What becomes of the time that a place is given where whoever came found no room, or found some: three of a hundred find none."""
TOGETHER_S = 10.0
"""Who finds no room so soon after another did does so for the same cause, most likely (a replica was away), which is learned from once."""
MAX_PLACES = 10_000
"""Of this process, and of others as heard here. Who is refused beyond that is told a time, and nothing is held."""
ALIKE_S, MAX_ALIKE = 0.25, 16
"""Who asks the same so soon after it was refused is somebody else, up to so many; later it is who was told to wait, and hears it again."""
MAX_TENANTS = 1000
"""Of whom anything is learned."""
MAX_TOLD = 500
"""Of a process's places, to others."""
LITTLE = 64
HEARD_S = 15.0
"""After so long others have heard what was told."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks, and what. `key`: tells the same request when it comes again; empty: it will not be told, or could never be let in. `takes`:
    by stage, for how many seconds all that stands in line there is later because of it. `is_urgent`: what is not holds nothing up that
    is."""

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
    """What a process tells: the places that it holds, and by process the numbers of those of others that were taken there. `number`: which
    of its tellings this is."""

    number: int = 0
    places: Sequence[ToldPlace] = ()
    taken: Mapping[str, Collection[int]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Place:
    """`since`: when it was given; `at`: when it is expected to be reached; `told_at`: when its owner was told to come; `until`: held.
    `in_lines`: of the stages, and for how many seconds in each. `is_again`: its owner came when told to, and found no room. `process`: that
    holds it, under the number; empty: this one."""

    number: int
    asked: Asked
    since: float
    at: float
    told_at: float
    until: float
    in_lines: Mapping[str, float]
    is_again: bool = False
    process: str = ""
    is_due: bool = False
    is_gone: bool = False


_Held: TypeAlias = dict[tuple[int, bool], float]
"""Seconds, by tenant and whether they are urgent."""


@dataclass(slots=True)
class _Learned:
    """Of a tenant's places before a stage, urgent ones or others. `stretch`: by how much longer than expected they are taken to hold it up;
    `kept`: which part of them is taken. `longer_since`: when `stretch` grew last."""

    stretch: float = 1.0
    kept: float = 1.0
    longer_since: float = -math.inf


NOTHING_LEARNED = _Learned()


@dataclass(slots=True)
class _Line:
    """Before a stage: what is held of it, and what of that by those whose time has come."""

    learned: OrderedDict[tuple[int, bool], _Learned] = field(default_factory=OrderedDict)
    all: _Held = field(default_factory=dict)
    due: _Held = field(default_factory=dict)

    def of(self, whose: tuple[int, bool]) -> _Learned:
        return self.learned.get(whose, NOTHING_LEARNED)

    def learning(self, asked: Asked) -> _Learned:
        whose = asked.tenant, asked.is_urgent
        found = self.learned.pop(whose, None) or _Learned()
        self.learned[whose] = found
        if len(self.learned) > MAX_TENANTS:
            self.learned.popitem(last=False)
        return found

    def before_s(self, held: _Held, asked: Asked, own_s: float) -> float:
        """Seconds of it that go before what is asked."""
        if not held:
            return 0.0
        by_tenant: dict[int, float] = {}
        for (tenant, is_urgent), seconds in held.items():
            if is_urgent or not asked.is_urgent:
                by_tenant[tenant] = by_tenant.get(tenant, 0.0) + self.of((tenant, is_urgent)).kept * seconds
        own = by_tenant.pop(asked.tenant, 0.0)
        return own + sum(min(seconds, own + own_s) for seconds in by_tenant.values())


class Waitlist:
    def __init__(self, *, max_places: int = MAX_PLACES) -> None:
        self._max = max_places
        self._lines: dict[str, _Line] = {}
        self._known: dict[tuple[int, str], list[_Place]] = {}  # by when they are reached
        self._coming: list[_Place] = []  # likewise
        self._due: dict[_Place, None] = {}
        self._ends: list[tuple[float, int, _Place]] = []  # a heap, of those that are due
        self._num_of: Counter[int] = Counter()  # of this process's, by tenant
        self._numbers, self._tellings = count(), count(1)
        self._of_others: dict[str, dict[int, _Place]] = {}
        self._heard: dict[str, int] = {}
        self._taken: dict[tuple[str, int], float] = {}  # of others', and when
        self._refused_at, self._has_told = -math.inf, False

    def __len__(self) -> int:
        return len(self._coming) + len(self._due)

    # ---- who asks ----

    def wait_s(
        self,
        asked: Asked,
        late_s: float,
        now: float,
        *,
        allowed_s: float,
        promised_late_s: float,
        is_idle: bool = False,
    ) -> float:
        """For how long it is to stay away; 0: it is let in. `late_s`: by how much it would be later than `allowed_s` if it were let in now
        (under 0: how much time it has left over), as newcomers are judged, by which they are told a time, too; `promised_late_s`: the same
        of who comes when it was told to; `is_idle`: nothing is before it, so that waiting makes it no sooner."""
        self._pass_time(now)
        own = self._known.get((asked.tenant, asked.key), ()) if asked.key else ()
        place = own[0] if own and self._is_reached(own[0], now) else None
        if place is None:
            left_s = late_s + min(self._due_s(asked), MAX_HELD * allowed_s)
        else:
            left_s = promised_late_s if place.is_due or place.at - now <= MAX_MARGIN_S else late_s
        if is_idle or left_s <= 0:
            if place is not None:
                self._learn(place, now, is_let_in=True)
            if own:
                self._take(own[0], now)
            return 0.0
        self._refused_at = now
        if place is not None and now >= place.told_at:
            self._learn(place, now, is_let_in=False)
            self._take(place, now)
            return self._hold(asked, now, left_s, place.in_lines, is_again=True)
        if own and (now - own[-1].since > ALIKE_S or len(own) >= MAX_ALIKE):
            return max(MARGIN_S, own[0].told_at - now)
        takes = {stage: self._stretch(stage, asked) * seconds for stage, seconds in asked.takes.items()}
        ahead_s = max((line.before_s(line.all, asked, takes[stage]) for stage, line in self._lines_of(asked)), default=0.0)
        return self._hold(asked, now, max(0.0, late_s + ahead_s), takes)

    def _is_reached(self, place: _Place, now: float) -> bool:
        """Of another process's it isn't known how long ago that told of it."""
        return place.is_due or (bool(place.process) and place.at - now < HEARD_S)

    def _due_s(self, asked: Asked) -> float:
        """How much time it must leave over to those whose time has come."""
        found_s = 0.0
        for stage, line in self._lines_of(asked):
            if due_s := line.before_s(line.due, asked, asked.takes[stage]):
                found_s = max(found_s, due_s + asked.takes[stage])
        return found_s

    def _lines_of(self, asked: Asked) -> list[tuple[str, _Line]]:
        return [(stage, self._lines[stage]) for stage in asked.takes if stage in self._lines]

    def _stretch(self, stage: str, asked: Asked) -> float:
        return self._lines[stage].of((asked.tenant, asked.is_urgent)).stretch if stage in self._lines else 1.0

    def _hold(self, asked: Asked, now: float, wait_s: float, takes: Mapping[str, float], *, is_again: bool = False) -> float:
        """Returns what is told."""
        told_s = wait_s + max(MARGIN_S, min(MARGIN * wait_s, MAX_MARGIN_S))
        if not asked.key or told_s > MAX_WAIT_S or not self._has_room_for(asked.tenant):
            return told_s
        at = now if is_again else now + wait_s
        place = _Place(next(self._numbers), asked, now, at, now + told_s, now + told_s + GRACE_S, takes, is_again)
        self._num_of[asked.tenant] += 1
        self._add(place)
        return told_s

    def _has_room_for(self, tenant: int) -> bool:
        """A tenant has no more than it leaves to others."""
        num_own = self._num_of[tenant]
        return num_own < (self._max - (self._num_of.total() - num_own) + 1) // 2

    def _learn(self, place: _Place, now: float, *, is_let_in: bool) -> None:
        self._count(place, kept=1.0)
        for stage in place.in_lines:
            learned = self._lines[stage].learning(place.asked)
            if is_let_in:
                learned.stretch = max(1.0, learned.stretch * SHORTER)
            elif now - learned.longer_since >= TOGETHER_S:
                learned.stretch, learned.longer_since = min(MAX_STRETCH, learned.stretch * LONGER), now

    def _count(self, place: _Place, *, kept: float) -> None:
        for stage in place.in_lines:
            learned = self._lines[stage].learning(place.asked)
            learned.kept = max(MIN_KEPT, learned.kept + RECENT * (kept - learned.kept))

    # ---- places ----

    def _add(self, place: _Place) -> None:
        insort(self._known.setdefault((place.asked.tenant, place.asked.key), []), place, key=_at)
        for stage, seconds in place.in_lines.items():
            _add(self._lines.setdefault(stage, _Line()).all, place.asked, seconds)
        insort(self._coming, place, key=_at)

    def _pass_time(self, now: float) -> None:
        num_due = bisect_right(self._coming, now, key=_at)
        for place in self._coming[:num_due]:
            place.is_due = True
            self._due[place] = None
            heappush(self._ends, (place.until, next(self._numbers), place))
            for stage, seconds in place.in_lines.items():
                _add(self._lines[stage].due, place.asked, seconds)
        del self._coming[:num_due]
        over = []
        while self._ends and (self._ends[0][0] < now or self._ends[0][2].is_gone):
            place = heappop(self._ends)[2]
            if not place.is_gone:
                over.append(place)
        self._remove(over)
        if len(self._ends) > 2 * len(self._due) + LITTLE:
            self._ends = [end for end in self._ends if not end[2].is_gone]
            heapify(self._ends)
        for place in over:
            if not place.is_again and not place.process:
                self._count(place, kept=0.0)

    def _take(self, place: _Place, now: float) -> None:
        if place.process:
            self._taken[place.process, place.number] = now
        self._remove([place])

    def _remove(self, places: Sequence[_Place]) -> None:
        """In one go: of many the lists are gone through once."""
        if not places:
            return
        are_coming = False
        for place in places:
            place.is_gone = True
            key = (place.asked.tenant, place.asked.key)
            alike = self._known[key]
            alike.remove(place)
            if not alike:
                del self._known[key]
            if place.process:
                self._of_others[place.process].pop(place.number, None)
            else:
                self._count_out(place.asked.tenant)
            if place.is_due:
                del self._due[place]
            are_coming |= not place.is_due
            for stage, seconds in place.in_lines.items():
                _add(self._lines[stage].all, place.asked, -seconds)
                if place.is_due:
                    _add(self._lines[stage].due, place.asked, -seconds)
        if are_coming:
            self._coming = [place for place in self._coming if not place.is_gone]

    def _count_out(self, tenant: int) -> None:
        self._num_of[tenant] -= 1
        if not self._num_of[tenant]:
            del self._num_of[tenant]

    # ---- other processes ----

    def is_in_use(self, now: float) -> bool:
        """Whether anybody was refused here lately, or is held a place: else there is nothing to tell."""
        return len(self) > 0 or bool(self._taken) or self._has_told or now - self._refused_at < HEARD_S

    def told(self, now: float) -> Told:
        """To other processes, again and again: of its own places those that are reached soonest."""
        self._pass_time(now)
        self._taken = {which: at for which, at in self._taken.items() if now - at < HEARD_S}
        places = [_told_of(place, now) for place in islice(self._own(), MAX_TOLD)]
        taken: dict[str, list[int]] = {}
        for process, number in self._taken:
            taken.setdefault(process, []).append(number)
        self._has_told = bool(places or taken)
        return Told(next(self._tellings), places, taken)

    def hear(self, others: Mapping[str, Told], now: float, *, own: str) -> None:
        """What every other process told last. What one told that is not among them any more stands until its time is over: who was refused
        by a process that has ended since comes back all the same. `own`: this one's name there."""
        self._pass_time(now)
        taken = {number for told in others.values() for number in told.taken.get(own, ())}
        if taken:
            gone = [place for place in self._own() if place.number in taken]
            self._remove(gone)
            for place in gone:
                self._count(place, kept=1.0)
        for process, told in others.items():
            if self._heard.get(process) != told.number:
                self._hear(process, told.places, now)
        self._heard = {process: told.number for process, told in others.items()}
        self._of_others = {process: places for process, places in self._of_others.items() if places or process in others}

    def _hear(self, process: str, told: Iterable[ToldPlace], now: float) -> None:
        known, new = self._of_others.setdefault(process, {}), {place.number: place for place in told}
        self._remove([place for number, place in known.items() if number not in new])
        room = self._max - sum(map(len, self._of_others.values()))
        for number, one in new.items():
            if room > 0 and number not in known and (process, number) not in self._taken:
                at, until = now + one.in_s, now + one.for_s
                place = _Place(number, one.asked, -math.inf, at, at, until, one.asked.takes, process=process)
                known[number] = place
                self._add(place)
                room -= 1

    def _own(self) -> Iterator[_Place]:
        return (place for place in (*self._due, *self._coming) if not place.process)


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
