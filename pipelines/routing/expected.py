"""When an item would be done at each of some replicas, as far as their news tells.

Decides what is supposed where news is old, or lacks something: outstanding work goes on being done after it was told of; what others have
sent meanwhile is supposed to be as everywhere in the pool, the more the older the news; a speed that nobody knows is the pool's, or else
the stage's. How long work takes is `stages/contract/cost.py`. Pure; who is chosen is `ranking.py`. A few floats a replica: this is done
for every candidate of every item, and what follows from news alone is kept with it (`Candidate.ahead`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.routing.candidate import UNKNOWN, Candidate, Ranking, Wanted
from stages.contract.cost import NOTHING_AHEAD, Ahead, Speed
from stages.contract.news import Hints, StageNews
from stages.contract.work import NO_WORK, Work

ONE = Work(1.0, 1.0)
MAX_FAILING = 0.95
GONE = 0.2
"""How probably what is told to be held is held no more."""
FRESH = 0.1
"""News that is younger than this part of its half life is taken as it is."""


@dataclass(slots=True, eq=False)
class Expected:
    """At one replica. `finish_s`: expected; `cost_s`: what it is ranked by, which counts failures, too. `work`: what is left of the item
    there. `num_held`: how many of its beginnings are held there; `num_parts`: of what it needs."""

    candidate: Candidate
    speed: Speed
    work: Work
    finish_s: float
    cost_s: float
    num_held: int
    num_parts: int

    @property
    def alone_s(self) -> float:
        """Had it nothing else to do."""
        return self.candidate.starts_in_s + self.speed.after(self.work, NOTHING_AHEAD)


def expected_at(candidates: Sequence[Candidate], wanted: Wanted, now: float, settings: Ranking) -> list[Expected]:
    """One for each, in their order."""
    speeds = _speeds(candidates)
    work = wanted.work if wanted.work is not None else _usual(candidates)
    ahead = _believed(candidates, _remaining(candidates, speeds, now), now, settings)
    chain, is_plain = frozenset(wanted.hints.chain), not wanted.hints.chain and not wanted.hints.parts
    found = []
    for candidate, speed, before in zip(candidates, speeds, ahead, strict=True):
        news = candidate.news
        if is_plain or news is None or (chain.isdisjoint(news.holds) and not wanted.hints.parts):
            finish_s = candidate.starts_in_s + speed.after(work, before)
            one = Expected(candidate, speed, work, finish_s, finish_s, 0, 0)
        else:
            one = _with_held(candidate, speed, work, before, wanted.hints)
        if news is not None and news.failing > 0:
            one.cost_s = (one.finish_s + news.failing * settings.retry_s) / (1 - min(news.failing, MAX_FAILING))
        found.append(one)
    return found


def _speeds(candidates: Sequence[Candidate]) -> list[Speed]:
    speeds = [candidate.news.speed if candidate.news is not None else None for candidate in candidates]
    if None not in speeds:
        return speeds  # type: ignore[return-value]
    known = {candidate.pool: speed for candidate, speed in zip(candidates, speeds, strict=True) if speed is not None}
    any_pool = next(iter(known.values()), UNKNOWN)
    return [speed or known.get(candidate.pool, any_pool) for candidate, speed in zip(candidates, speeds, strict=True)]


def _usual(candidates: Sequence[Candidate]) -> Work:
    """The mean of what is seen to wait."""
    told = [candidate.news for candidate in candidates if candidate.news is not None and candidate.news.num_items]
    num_items = sum(news.num_items for news in told)
    if not num_items:
        return ONE
    steps = sum(news.outstanding.steps for news in told) / num_items
    return Work(sum(news.outstanding.amount for news in told) / num_items, steps) if steps > 0 else ONE


def _remaining(candidates: Sequence[Candidate], speeds: Sequence[Speed], now: float) -> list[Ahead]:
    """Of each, what lies before a newcomer: without what is done since the news came, or more was sent."""
    found = []
    for candidate, speed in zip(candidates, speeds, strict=True):
        ahead = candidate.ahead
        if ahead is None:
            ahead = _look_ahead(candidate, speed)
        if candidate.drain_s > 0 and candidate.news is not None:
            heard_at, sent_at = candidate.heard_at, candidate.sent_at
            left = 1 - (now - (heard_at if heard_at > sent_at else sent_at)) / candidate.drain_s
            if left <= 0:
                ahead = NOTHING_AHEAD
            elif left < 1:
                ahead = Ahead(left * ahead.waits_s, left * ahead.beside, ahead.lasts)
        found.append(ahead)
    return found


def _look_ahead(candidate: Candidate, speed: Speed) -> Ahead:
    """Once, until there is news or more is sent."""
    news = candidate.news
    outstanding, num_items = (news.outstanding, news.num_items) if news is not None else (NO_WORK, 0)
    outstanding, num_items = outstanding + candidate.sent, num_items + candidate.num_sent
    if num_items and outstanding.steps <= 0:  # of whose work nobody knows
        outstanding = ONE * num_items
    candidate.ahead, candidate.drain_s = speed.ahead(outstanding, num_items), speed.drain_s(outstanding, num_items)
    return candidate.ahead


def _believed(candidates: Sequence[Candidate], ahead: list[Ahead], now: float, settings: Ranking) -> list[Ahead]:
    """The older the news, the more it is as with the others of its pool; at least what this process has sent there itself."""
    fresh_s = FRESH * settings.news_half_life_s
    if all(candidate.news is not None and now - candidate.heard_at <= fresh_s for candidate in candidates):
        return ahead
    means = _means(candidates, ahead)
    found = []
    for candidate, own in zip(candidates, ahead, strict=True):
        age_s = now - candidate.heard_at
        if candidate.news is not None and age_s <= fresh_s:
            found.append(own)
            continue
        trust = 0.5 ** (age_s / settings.news_half_life_s) if candidate.news is not None else 0.0
        waits_s, beside = means.get(candidate.pool, (0.0, 0.0))
        if candidate.num_sent:
            waits_s, beside = max(waits_s, own.waits_s), max(beside, own.beside)
        found.append(Ahead(trust * own.waits_s + (1 - trust) * waits_s, trust * own.beside + (1 - trust) * beside, own.lasts))
    return found


def _means(candidates: Sequence[Candidate], ahead: Sequence[Ahead]) -> dict[str, tuple[float, float]]:
    """By pool, over those that anything was heard of."""
    sums: dict[str, tuple[float, float, int]] = {}
    for candidate, one in zip(candidates, ahead, strict=True):
        if candidate.news is not None:
            waits_s, beside, count = sums.get(candidate.pool, (0.0, 0.0, 0))
            sums[candidate.pool] = waits_s + one.waits_s, beside + one.beside, count + 1
    return {pool: (waits_s / count, beside / count) for pool, (waits_s, beside, count) in sums.items()}


def _with_held(candidate: Candidate, speed: Speed, work: Work, ahead: Ahead, hints: Hints) -> Expected:
    """What it holds of the item need not be done. Who holds the whole result waits for nothing, unless that is gone by then."""
    num_held, num_parts = held_at(candidate.news, hints)
    left = work - hints.each * num_held if num_held else work
    if left.amount > 0 or not num_held:
        takes_s = speed.after(left, ahead) + (len(hints.parts) - num_parts) * hints.part_s
    else:
        left, takes_s = work * GONE, GONE * speed.after(work, ahead)
    finish_s = candidate.starts_in_s + takes_s
    return Expected(candidate, speed, left, finish_s, finish_s, num_held, num_parts)


def held_at(news: StageNews | None, hints: Hints) -> tuple[int, int]:
    """How many of the item's beginnings, and of the results that it needs, are held there."""
    if news is None or not news.holds:
        return 0, 0
    holds, chain = news.holds, hints.chain
    num_held = next((at for at in range(len(chain), 0, -1) if chain[at - 1] in holds), 0)
    return num_held, sum(part in holds for part in hints.parts)
