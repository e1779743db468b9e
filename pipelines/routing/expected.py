"""When an item would be done at each of some replicas, as far as their news tells.

Decides what is supposed where news is old, or lacks something: outstanding work goes on being done after it was told of; what others have
sent meanwhile is supposed to be as everywhere in the pool, the more the older the news; a speed that nobody knows is the pool's, or else
the stage's; other stages on the same device take their share of its time while they have work; other tenants' items go before one of a
tenant with less, but only as much of them as it has itself. How long work takes is `stages/contract/cost.py`. Pure; who is chosen is
`ranking.py`. This is done for every candidate of every item: a few floats each, and what follows from news alone is kept with it
(`Candidate.ahead`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.routing.candidate import UNKNOWN, Candidate, Ranking, Wanted
from pipelines.routing.holding import Held
from stages.contract.cost import NOTHING_AHEAD, Ahead, Part, Speed, Turns, shared_s
from stages.contract.work import NO_WORK, Work

ONE = Work(1.0, 1.0)
MAX_FAILING = 0.95
GONE = 0.2
"""How probably what is told to be held is held no more."""
FRESH = 0.1
"""News that is younger than this part of its half life is taken as it is."""

NOTHING_TOLD: Mapping[int, Part] = {}
NOBODYS = frozenset({0})
MAX_KEPT = 64
"""Of what items of unlike tenants and amounts find at one replica, until it has news."""

_Line = tuple[Speed, float, float, float]
"""What a newcomer finds at a replica: its speed, and an `Ahead` as it is by now."""


@dataclass(slots=True, eq=False)
class Expected:
    """At one replica. `work`: what is left of the item there. `length_held`: so many times `Hints.each` of its beginning is held there;
    `num_parts`: of what it needs."""

    candidate: Candidate
    speed: Speed
    work: Work
    finish_s: float
    length_held: int
    num_parts: int


class Outlook:
    """Of one item. `costs`: what each of the candidates is ranked by, in their order: seconds until it is done there, failures counted."""

    __slots__ = ("_candidates", "_held", "_is_plain", "_lines", "_now", "_wanted", "_work", "costs")

    def __init__(self, candidates: Sequence[Candidate], wanted: Wanted, held: Held, now: float, settings: Ranking) -> None:
        self._candidates, self._wanted, self._held, self._now = candidates, wanted, held, now
        self._work = wanted.work if wanted.work is not None else _usual(candidates)
        self._is_plain = not held.beginnings and not wanted.hints.parts
        self._lines = _lines(candidates, wanted, self._work, now, settings)
        self.costs = [self._cost_s(one, line, settings) for one, line in zip(candidates, self._lines, strict=True)]

    def _cost_s(self, candidate: Candidate, line: _Line, settings: Ranking) -> float:
        news = candidate.news
        if self._is_plain and not candidate.others:  # as `_finish_s`; most are
            speed, waits_s, beside, lasts = line
            finish_s = candidate.starts_in_s + speed.beside_s + speed.done_s(self._work, waits_s, beside, lasts)
        else:
            finish_s = self._finish_s(candidate, line)
        if news is None or not news.failing:
            return finish_s
        return (finish_s + news.failing * settings.retry_s) / (1 - min(news.failing, MAX_FAILING))

    def is_reading(self, place: int) -> bool:
        """Whether somebody's there begins as the item does, and may be waited for."""
        return self._held.at(self._candidates[place])[1] is not None

    def saved_s(self, place: int, length: int) -> float:
        """What so long a beginning takes there."""
        return self._reads_s(self._lines[place][0], length)

    def _reads_s(self, speed: Speed, length: int) -> float:
        return speed.after(self._wanted.hints.each * length, NOTHING_AHEAD)

    def at(self, place: int) -> Expected:
        candidate, line = self._candidates[place], self._lines[place]
        length, num_parts = self._held.length_at(candidate), self._held.num_parts_at(candidate)
        left = self._left(length)
        left = left if left is not None else self._work * GONE
        return Expected(candidate, line[0], left, self._finish_s(candidate, line), length, num_parts)

    def crowded_s(self, place: int) -> float:
        """Until it is done if others come as soon as any end, so that its stage has as much beside it to its end as there is now."""
        return self._finish_s(self._candidates[place], self._lines[place], is_crowded=True)

    def alone_s(self, place: int) -> float:
        """Had it nothing else to do. What it needs of others is not counted."""
        candidate, speed = self._candidates[place], self._lines[place][0]
        left = self._work if self._is_plain else self._left(self._held.length_at(candidate))
        if left is not None:
            return candidate.starts_in_s + speed.beside_s + speed.after(left, NOTHING_AHEAD)
        return candidate.starts_in_s + GONE * (speed.beside_s + speed.after(self._work, NOTHING_AHEAD))

    def _finish_s(self, candidate: Candidate, line: _Line, *, is_crowded: bool = False) -> float:
        """What it holds of the item need not be done. Who holds the whole result waits for nothing, unless that is gone by then."""
        speed, waits_s, beside, lasts = line
        lasts = math.inf if is_crowded else lasts
        length, begun_at = (0, None) if self._is_plain else self._held.at(candidate)
        left = self._left(length)
        if begun_at is not None:  # what it waits for is computed there first
            reads_s = self._reads_s(speed, length)
            told_s = max(0.0, candidate.heard_at - begun_at)  # so much of it was done when it was told of
            if told_s < reads_s and candidate.turns is None:
                waits_s, beside = _behind(candidate, speed, self._wanted.hints.each * (length * (1 - told_s / reads_s)))
            waits_s += max(0.0, reads_s - (self._now - begun_at))
        takes_s = speed.done_s(left if left is not None else self._work, waits_s, beside, lasts)
        if candidate.others:
            takes_s = shared_s(takes_s, _others_s(candidate, self._now))
        takes_s += speed.beside_s
        if left is None:
            takes_s *= GONE
        elif not self._is_plain and (parts := self._wanted.hints.parts):
            takes_s += (len(parts) - self._held.num_parts_at(candidate)) * self._wanted.hints.part_s
        return candidate.starts_in_s + takes_s

    def _left(self, length_held: int) -> Work | None:
        """Of the item, where so much of it is held; None: all of it is."""
        if not length_held:
            return self._work
        left = self._work - self._wanted.hints.each * length_held
        return left if left.amount > 0 else None


def _usual(candidates: Sequence[Candidate]) -> Work:
    """The mean of what is seen to wait."""
    told = [candidate.news for candidate in candidates if candidate.news is not None and candidate.news.num_items]
    num_items = sum(news.num_items for news in told)
    if not num_items:
        return ONE
    steps = sum(news.outstanding.steps for news in told) / num_items
    return Work(sum(news.outstanding.amount for news in told) / num_items, steps) if steps > 0 else ONE


def _lines(candidates: Sequence[Candidate], wanted: Wanted, work: Work, now: float, settings: Ranking) -> list[_Line]:
    """One for each. The older the news, the more it is as with the others of its pool; at least what this process has sent there itself."""
    fresh_s = FRESH * settings.news_half_life_s
    found, is_fresh, speeds, is_urgent = [], True, None, wanted.priority <= 0
    for candidate in candidates:
        news, ahead = candidate.news, candidate.ahead
        speed = news.speed if news is not None else None
        if speed is None:
            speeds = _speeds(candidates) if speeds is None else speeds
            speed, ahead = speeds.get(candidate.pool, speeds[""]), None  # it may be another by now
        if ahead is None:
            ahead = _look_ahead(candidate, speed)
        if candidate.turns is not None:
            ahead = _in_turn(candidate, candidate.turns, speed, wanted.tenant, work.amount, is_urgent=is_urgent)
        elif is_urgent and candidate.ahead_of_urgent is not None:
            ahead = candidate.ahead_of_urgent
        if news is None or now - candidate.heard_at > fresh_s:
            is_fresh = False
        left = _part_left(candidate, now) if news is not None and candidate.drain_s else 1.0
        found.append((speed, left * ahead.waits_s, left * ahead.beside, ahead.lasts))
    return found if is_fresh else _believed(candidates, found, now, fresh_s, settings.news_half_life_s)


def _speeds(candidates: Sequence[Candidate]) -> dict[str, Speed]:
    """That somebody knows, by pool; "": of any."""
    known = {one.pool: one.news.speed for one in candidates if one.news is not None and one.news.speed is not None}
    return {"": next(iter(known.values()), UNKNOWN), **known}


def _look_ahead(candidate: Candidate, speed: Speed) -> Ahead:
    """Once, until there is news or more is sent."""
    news, (outstanding, num_items) = candidate.news, _totals(candidate)
    candidate.turns = _turns(candidate, outstanding, num_items)
    candidate.ahead_of.clear()
    candidate.ahead, candidate.drain_s = ahead, _ = speed.ahead(outstanding, num_items), speed.drain_s(outstanding, num_items)
    candidate.ahead_of_urgent = None
    if news is not None and news.num_later:
        candidate.ahead_of_urgent = speed.ahead(outstanding - news.later, num_items - news.num_later)
    return ahead


def _totals(candidate: Candidate) -> tuple[Work, int]:
    """All that it has to do, as far as anybody knows, and of how many items."""
    news = candidate.news
    outstanding, num_items = (news.outstanding, news.num_items) if news is not None else (NO_WORK, 0)
    outstanding, num_items = outstanding + candidate.sent, num_items + candidate.num_sent
    if num_items and outstanding.steps <= 0:  # of whose work nobody knows
        outstanding = ONE * num_items
    return outstanding, num_items


def _behind(candidate: Candidate, speed: Speed, unread: Work) -> tuple[float, float]:
    """What it has to do beside the `unread` part of a beginning: what is waited for, and the company, as in an `Ahead`."""
    outstanding, num_items = _totals(candidate)
    left = outstanding - unread
    ahead = speed.ahead(left, num_items) if left.steps > 0 and left.amount > 0 else NOTHING_AHEAD
    return ahead.waits_s, ahead.beside


def _turns(candidate: Candidate, outstanding: Work, num_items: float) -> Turns[int] | None:
    """None: nobody tells tenants apart."""
    told = candidate.news.tenants if candidate.news is not None else NOTHING_TOLD
    if not told and candidate.sent_of.keys() <= NOBODYS:
        return None
    found = dict(told)
    for tenant, (work, num_sent) in candidate.sent_of.items():
        part = found.get(tenant)
        found[tenant] = (
            Part(work, num_sent)
            if part is None
            else Part(part.outstanding + work, part.num_items + num_sent, part.later, part.num_later)
        )
    return Turns(outstanding, num_items, found)


def _in_turn(candidate: Candidate, turns: Turns[int], speed: Speed, tenant: int, amount: float, *, is_urgent: bool) -> Ahead:
    """What an item of this tenant finds: whoever has had least goes first there."""
    key = tenant, amount, is_urgent
    ahead = candidate.ahead_of.get(key)
    if ahead is None:
        if len(candidate.ahead_of) >= MAX_KEPT:
            candidate.ahead_of.clear()
        before = turns.before(tenant, amount, speed.company, is_urgent=is_urgent)
        ahead = candidate.ahead_of[key] = speed.ahead(*before)
    return ahead


def _part_left(candidate: Candidate, now: float) -> float:
    """Of what it had to do. What shares its device slows that down, too."""
    heard_at, sent_at, drain_s = candidate.heard_at, candidate.sent_at, candidate.drain_s
    if candidate.others:
        drain_s = shared_s(drain_s, (_drain_s(other) for other in candidate.others))
    left = 1 - (now - (heard_at if heard_at > sent_at else sent_at)) / drain_s
    return 0.0 if left <= 0 else 1.0 if left >= 1 else left


def _others_s(candidate: Candidate, now: float) -> list[float]:
    """How long each of the stages that share its device has yet to do, had it the device alone."""
    return [drain_s * _part_left(other, now) for other in candidate.others if (drain_s := _drain_s(other)) > 0]


def _drain_s(candidate: Candidate) -> float:
    """Of all that it has to do, as it was told; nothing where nobody knows."""
    news = candidate.news
    if news is None or news.speed is None:
        return 0.0
    if candidate.ahead is None:
        _look_ahead(candidate, news.speed)
    return candidate.drain_s


def _believed(
    candidates: Sequence[Candidate], lines: list[_Line], now: float, fresh_s: float, half_life_s: float
) -> list[_Line]:
    """In place of those that are not fresh."""
    sums = _sums(candidates, lines)
    for place, candidate in enumerate(candidates):
        news, age_s = candidate.news, now - candidate.heard_at
        if news is not None and age_s <= fresh_s:
            continue
        speed, own_s, own, lasts = lines[place]
        told = sums.get(candidate.pool)
        waits_s, beside = (told[0] / told[2], told[1] / told[2]) if told is not None else (0.0, 0.0)
        if candidate.num_sent:
            waits_s, beside = max(waits_s, own_s), max(beside, own)
        if news is not None:
            trust = 0.5 ** (age_s / half_life_s)
            waits_s, beside = waits_s + trust * (own_s - waits_s), beside + trust * (own - beside)
        lines[place] = speed, waits_s, beside, lasts
    return lines


def _sums(candidates: Sequence[Candidate], lines: Sequence[_Line]) -> dict[str, list[float]]:
    """By pool, of the seconds and of what is beside, and over how many: those that anything was heard of."""
    sums: dict[str, list[float]] = {}
    for candidate, line in zip(candidates, lines, strict=True):
        if candidate.news is None:
            continue
        known = sums.get(candidate.pool)
        if known is None:
            sums[candidate.pool] = [line[1], line[2], 1.0]
        else:
            known[0] += line[1]
            known[1] += line[2]
            known[2] += 1.0
    return sums
