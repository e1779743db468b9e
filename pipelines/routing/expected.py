"""When an item would be done at each of some replicas, as far as their news tells.

Decides what is supposed where news is old, or lacks something: outstanding work goes on being done after it was told of; what others have
sent meanwhile is supposed to be as everywhere in the pool, the more the older the news; a speed that nobody knows is the pool's, or else
the stage's. How long work takes is `stages/contract/cost.py`. Pure; who is chosen is `ranking.py`. A few floats a replica: this is done
for every candidate of every item, and what follows from news alone is kept with it (`Candidate.ahead`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.routing.candidate import NOTHING_AHEAD, Ahead, Candidate, Ranking, Wanted
from stages.contract.cost import Speed, StepTimes
from stages.contract.news import Hints, StageNews
from stages.contract.work import NO_WORK, Work

UNKNOWN = Speed(StepTimes(((1.0, 1.0),)), max_rows=1, max_amount=1.0)
"""Where no speed is known at all: one item after another, so that whoever has fewest is soonest."""
ONE = Work(1.0, 1.0)
MAX_FAILING = 0.95
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
        return self.candidate.starts_in_s + _after(self.speed, self.work, 0.0, 0.0)


def expected_at(candidates: Sequence[Candidate], wanted: Wanted, now: float, settings: Ranking) -> list[Expected]:
    """One for each, in their order."""
    speeds = _speeds(candidates)
    work = wanted.work if wanted.work is not None else _usual(candidates)
    ahead = _believed(candidates, _remaining(candidates, speeds, now), now, settings)
    chain, is_plain = frozenset(wanted.hints.chain), not wanted.hints.chain and not wanted.hints.parts
    found = []
    for candidate, speed, (waits_s, beside) in zip(candidates, speeds, ahead, strict=True):
        news = candidate.news
        if is_plain or news is None or (chain.isdisjoint(news.holds) and not wanted.hints.parts):
            finish_s = candidate.starts_in_s + _after(speed, work, waits_s, beside)
            one = Expected(candidate, speed, work, finish_s, finish_s, 0, 0)
        else:
            one = _with_held(candidate, speed, work, waits_s, beside, wanted.hints)
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


def _remaining(candidates: Sequence[Candidate], speeds: Sequence[Speed], now: float) -> list[tuple[float, float]]:
    """Of each, seconds of waiting, and what takes part in each step: without what is done since the news came, or more was sent."""
    found = []
    for candidate, speed in zip(candidates, speeds, strict=True):
        ahead = candidate.ahead
        if ahead is None:
            ahead = candidate.ahead = _ahead_of(candidate, speed)
        waits_s, beside, drain_s = ahead.waits_s, ahead.beside, ahead.drain_s
        if drain_s > 0 and candidate.news is not None:
            heard_at, sent_at = candidate.heard_at, candidate.sent_at
            left = 1 - (now - (heard_at if heard_at > sent_at else sent_at)) / drain_s
            if left <= 0:
                waits_s = beside = 0.0
            elif left < 1:
                waits_s, beside = left * waits_s, left * beside
        found.append((waits_s, beside))
    return found


def _ahead_of(candidate: Candidate, speed: Speed) -> Ahead:
    news, sent = candidate.news, candidate.sent
    num_items, outstanding = (news.num_items, news.outstanding) if news is not None else (0, NO_WORK)
    return _ahead(speed, outstanding + sent, num_items + candidate.num_sent)


def _ahead(speed: Speed, outstanding: Work, num_items: int) -> Ahead:
    if num_items <= 0:
        return NOTHING_AHEAD
    if outstanding.steps <= 0:  # items whose work nobody knows
        outstanding = ONE * num_items
    company = min(num_items, speed.max_rows - 1)
    beside = company * outstanding.amount / outstanding.steps
    return Ahead(speed.finish_s(NO_WORK, outstanding, num_items), beside, speed.drain_s(outstanding, num_items))


def _after(speed: Speed, work: Work, waits_s: float, beside: float) -> float:
    if work.steps <= 0:
        return waits_s
    own = work.amount / work.steps
    return waits_s + work.steps * speed.step_s(min(own + beside, max(speed.max_amount, own)))


def _believed(
    candidates: Sequence[Candidate], ahead: list[tuple[float, float]], now: float, settings: Ranking
) -> list[tuple[float, float]]:
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
            waits_s, beside = max(waits_s, own[0]), max(beside, own[1])
        found.append((trust * own[0] + (1 - trust) * waits_s, trust * own[1] + (1 - trust) * beside))
    return found


def _means(candidates: Sequence[Candidate], ahead: Sequence[tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """By pool, over those that anything was heard of."""
    sums: dict[str, tuple[float, float, int]] = {}
    for candidate, (waits_s, beside) in zip(candidates, ahead, strict=True):
        if candidate.news is not None:
            all_waits_s, all_beside, count = sums.get(candidate.pool, (0.0, 0.0, 0))
            sums[candidate.pool] = all_waits_s + waits_s, all_beside + beside, count + 1
    return {pool: (waits_s / count, beside / count) for pool, (waits_s, beside, count) in sums.items()}


def _with_held(candidate: Candidate, speed: Speed, work: Work, waits_s: float, beside: float, hints: Hints) -> Expected:
    """What it holds of the item need not be done. Who holds the whole result waits for nothing."""
    num_held, num_parts = held_at(candidate.news, hints)
    left = work - hints.each * num_held if num_held else work
    if num_held and left.amount <= 0:
        finish_s = 0.0
    else:
        finish_s = _after(speed, left, waits_s, beside) + (len(hints.parts) - num_parts) * hints.part_s
    finish_s += candidate.starts_in_s
    return Expected(candidate, speed, left, finish_s, finish_s, num_held, num_parts)


def held_at(news: StageNews | None, hints: Hints) -> tuple[int, int]:
    """How many of the item's beginnings, and of the results that it needs, are held there."""
    if news is None or not news.holds:
        return 0, 0
    holds, chain = news.holds, hints.chain
    num_held = next((at for at in range(len(chain), 0, -1) if chain[at - 1] in holds), 0)
    return num_held, sum(part in holds for part in hints.parts)
