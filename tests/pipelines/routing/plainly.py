"""The expected finish at every replica, worked out the plain way: one formula after the other, nothing kept from one item to the next. What
`pipelines/routing/expected.py` finds quickly must be this."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from pipelines.routing.candidate import UNKNOWN, Candidate, Ranking, Wanted
from stages.contract.cost import Ahead, Part, Speed, shared_s
from stages.contract.news import Hints, StageNews
from stages.contract.work import NO_WORK, Work

GONE, FRESH, MAX_FAILING = 0.2, 0.1, 0.95


@dataclass(frozen=True, slots=True)
class Plain:
    finish_s: float
    cost_s: float
    alone_s: float
    length_held: int


def expected(candidates: Sequence[Candidate], wanted: Wanted, now: float, settings: Ranking = Ranking()) -> list[Plain]:
    speeds = [speed_of(one, candidates) for one in candidates]
    usual = usual_work(candidates)
    own = [ahead_now(one, speed, now, wanted, usual) for one, speed in zip(candidates, speeds, strict=True)]
    found = []
    for one, speed, line in zip(candidates, speeds, own, strict=True):
        pool = [ahead for other, ahead in zip(candidates, own, strict=True) if other.news and other.pool == one.pool]
        found.append(_at(one, speed, believed(one, line, pool, now, settings), wanted, usual, now, settings))
    return found


def speed_of(one: Candidate, candidates: Sequence[Candidate]) -> Speed:
    """Its own, its pool's, anybody's."""
    if one.news is not None and one.news.speed is not None:
        return one.news.speed
    known = [(other.pool, other.news.speed) for other in candidates if other.news is not None and other.news.speed is not None]
    pool = one.pool if any(name == one.pool for name, _ in known) else known[0][0] if known else ""
    return [speed for name, speed in known if name == pool][-1] if known else UNKNOWN


def outstanding(one: Candidate) -> tuple[Work, int]:
    told, num = (one.news.outstanding, one.news.num_items) if one.news is not None else (NO_WORK, 0)
    work, num = told + one.sent, num + one.num_sent
    return (Work(float(num), float(num)) if num and work.steps <= 0 else work), num


def usual_work(candidates: Sequence[Candidate]) -> Work:
    """The mean of what is told to wait."""
    told = [one.news for one in candidates if one.news is not None]
    num = sum(news.num_items for news in told if news.num_items)
    steps = sum(news.outstanding.steps for news in told if news.num_items)
    return (
        Work(sum(news.outstanding.amount for news in told if news.num_items) / num, steps / num)
        if steps > 0
        else Work(1.0, 1.0)
    )


def part_left(one: Candidate, speed: Speed, now: float) -> float:
    drain_s = speed.drain_s(*outstanding(one))
    if one.news is None or drain_s <= 0:
        return 1.0
    others_s = [other.news.speed.drain_s(*outstanding(other)) for other in one.others if other.news and other.news.speed]
    age_s = now - max(one.heard_at, one.sent_at)
    return min(1.0, max(0.0, 1 - age_s / shared_s(drain_s, others_s)))


def ahead_now(one: Candidate, speed: Speed, now: float, wanted: Wanted, usual: Work) -> Ahead:
    (work, num), left = outstanding(one), part_left(one, speed, now)
    urgent, num_urgent = work, num
    if one.news is not None and wanted.priority <= 0:
        urgent, num_urgent = work - one.news.later, num - one.news.num_later
    ahead = speed.ahead(urgent, num_urgent)
    if parts := of_tenants(one):
        company = 2 * speed.max_rows - 1 if speed.is_one_shot else speed.max_rows
        asks = wanted.work if wanted.work is not None else usual
        ahead = speed.ahead(*in_turn(work, num, parts, wanted.tenant, asks, company, is_urgent=wanted.priority <= 0))
    return Ahead(left * ahead.waits_s, left * ahead.beside, ahead.lasts)


def of_tenants(one: Candidate) -> dict[int, Part]:
    told = dict(one.news.tenants) if one.news is not None else {}
    if not told and not any(one.sent_of):
        return {}
    nothing = Part(NO_WORK, 0.0)
    for tenant, (work, num) in one.sent_of.items():
        part = told.get(tenant, nothing)
        told[tenant] = Part(part.outstanding + work, part.num_items + num, part.later, part.num_later)
    return told


def in_turn(
    work: Work, num: float, parts: Mapping[int, Part], tenant: int, asks: Work, company: float, *, is_urgent: bool
) -> tuple[Work, float]:
    """All that nobody tells of, the tenant's own, and of each other one's as much as that and the item."""
    untold, num_untold = work, float(num)
    for part in parts.values():
        untold, num_untold = untold - part.outstanding, num_untold - part.num_items
    before, num_before = untold, max(0.0, num_untold)
    own = parts.get(tenant, Part(NO_WORK, 0.0))
    mine, num_mine = own.outstanding, own.num_items
    if is_urgent:
        mine, num_mine, work, num = mine - own.later, num_mine - own.num_later, work - own.later, num - own.num_later
    before, num_before = before + mine, num_before + num_mine
    for other, part in parts.items():
        if other != tenant:
            amount = part.outstanding.amount
            share = min(1.0, (mine.amount + asks.amount) / amount) if amount > 0 else 1.0
            before, num_before = before + part.outstanding * share, num_before + part.num_items * share
    least = min(num, company)
    if num_before < least:
        missing = (least - num_before) / (num - num_before)
        before, num_before = before + (work - before) * missing, least
    return Work(min(before.amount, work.amount), min(before.steps, work.steps)), min(num_before, num)


def believed(one: Candidate, own: Ahead, pool: Sequence[Ahead], now: float, settings: Ranking) -> Ahead:
    age_s = now - one.heard_at
    if one.news is not None and age_s <= FRESH * settings.news_half_life_s:
        return own
    trust = 0.5 ** (age_s / settings.news_half_life_s) if one.news is not None else 0.0
    waits_s, beside = (fmean(each.waits_s for each in pool), fmean(each.beside for each in pool)) if pool else (0.0, 0.0)
    if one.num_sent:
        waits_s, beside = max(waits_s, own.waits_s), max(beside, own.beside)
    return Ahead(trust * own.waits_s + (1 - trust) * waits_s, trust * own.beside + (1 - trust) * beside, own.lasts)


def _at(one: Candidate, speed: Speed, ahead: Ahead, wanted: Wanted, usual: Work, now: float, settings: Ranking) -> Plain:
    wanted = wanted if wanted.work is not None else replace(wanted, work=usual)
    assert wanted.work is not None
    length, num_parts = held_at(one.news, wanted.hints)
    left = wanted.work - wanted.hints.each * length if length else wanted.work
    is_whole = bool(length) and left.amount <= 0
    takes_s = speed.after(wanted.work if is_whole else left, ahead)
    alone_s = speed.finish_s(wanted.work if is_whole else left) + speed.beside_s
    others_s = [
        part_left(other, other.news.speed, now) * other.news.speed.drain_s(*outstanding(other))
        for other in one.others
        if other.news is not None and other.news.speed is not None
    ]
    takes_s = shared_s(takes_s, others_s) + speed.beside_s
    if is_whole:
        takes_s, alone_s = GONE * takes_s, GONE * alone_s
    else:
        takes_s += (len(wanted.hints.parts) - num_parts) * wanted.hints.part_s
    finish_s = one.starts_in_s + takes_s
    failing = one.news.failing if one.news is not None else 0.0
    cost_s = (finish_s + failing * settings.retry_s) / (1 - min(failing, MAX_FAILING)) if failing else finish_s
    return Plain(finish_s, cost_s, one.starts_in_s + alone_s, length)


def held_at(news: StageNews | None, hints: Hints) -> tuple[int, int]:
    """How much of the item's beginning, and how many of the results that it needs, are held there."""
    holds = news.holds if news is not None else frozenset()
    lengths = [hints.length(place) for place, held in enumerate(hints.chain) if held in holds]
    return max(lengths, default=0), sum(part in holds for part in hints.parts)
