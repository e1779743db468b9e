"""Which replica of a stage, of all its pools, an item goes to: where it is expected to be done soonest.

Decides who among near equals is taken, so that many who know the same don't all choose the same one: at random, a faster device more
often. Exceptions that cost little: a result's name goes to its owner, as long as that is not much later than elsewhere, so that it is made
once; what begins as something does that is being read goes there, so that it is read once; what is not urgent leaves faster devices to
others, where its deadline allows it. Whoever holds something of the item needs less time for it, and is therefore sooner; its line is
never longer than another's by more than that saves. Pure: chance is handed in.
"""

from collections.abc import Callable, Sequence

from pipelines.routing.candidate import UNKNOWN, Candidate, Ranked, Ranking, Wanted
from pipelines.routing.expected import Expected, Outlook
from pipelines.routing.holding import Held
from pipelines.routing.ownership import weight

TIGHT = 0.5
"""A deadline is near where the earliest finish takes more than this part of the time that is left."""


def rank(
    wanted: Wanted,
    candidates: Sequence[Candidate],
    held: Held,
    now: float,
    draw: Callable[[], float],
    settings: Ranking = Ranking(),
) -> Ranked | None:
    """None: there are no candidates. Where all are full, the one that would be soonest all the same. `held`: who holds what of the item;
    `draw`: numbers from 0 to 1."""
    if not candidates:
        return None
    found = _ranked(wanted, candidates, held, now, draw, settings)
    if found.best.is_full or (found.runner_up is not None and found.runner_up.is_full):  # only then the others are asked
        free = [candidate for candidate in candidates if not candidate.is_full]
        if num_full := len(candidates) - len(free) if free else 0:
            found = _ranked(wanted, free, held, now, draw, settings, num_full)
    return found


def _ranked(
    wanted: Wanted,
    candidates: Sequence[Candidate],
    held: Held,
    now: float,
    draw: Callable[[], float],
    settings: Ranking,
    num_full: int = 0,
) -> Ranked:
    outlook = Outlook(candidates, wanted, held, now, settings)
    costs = outlook.costs
    soonest = costs.index(min(costs))
    first = outlook.at(soonest)
    place, why = _chosen(wanted, candidates, outlook, soonest, first, draw, settings)
    next_one = soonest if place != soonest else _next(costs, soonest)
    best = first if place == soonest else outlook.at(place)
    runner_up = outlook.at(next_one) if next_one is not None else None
    late_s = best.finish_s - first.finish_s if costs[soonest] < costs[place] else 0.0
    return Ranked(
        best=best.candidate,
        finish_s=best.finish_s,
        speed=best.speed,
        alone_s=outlook.alone_s(place),
        crowded_s=outlook.crowded_s(place),
        runner_up=runner_up.candidate if runner_up is not None else None,
        runner_up_s=runner_up.finish_s if runner_up is not None else None,
        remembered=_remembered(wanted, best),
        reasons=_reasons(best, why, late_s, num_full),
    )


def _next(costs: Sequence[float], soonest: int) -> int | None:
    """The soonest of the others."""
    others = min((*costs[:soonest], *costs[soonest + 1 :]), default=None)
    if others is None:
        return None
    at = costs.index(others)
    return at if at != soonest else costs.index(others, soonest + 1)


def _chosen(
    wanted: Wanted,
    candidates: Sequence[Candidate],
    outlook: Outlook,
    soonest: int,
    first: Expected,
    draw: Callable[[], float],
    settings: Ranking,
) -> tuple[int, str]:
    """Its place, and in half a sentence why. `first`: the soonest."""
    costs = outlook.costs
    if len(costs) == 1:
        return soonest, "the only one"
    is_known = first.speed is not UNKNOWN
    if wanted.priority < 0 or (is_known and first.finish_s > TIGHT * wanted.left_s):
        return soonest, "the soonest, as it is urgent"
    if first.length_held:
        return soonest, "the soonest, with what it holds of it"
    if wanted.hints.chain and (reader := _reader(outlook, soonest, settings)) is not None:
        return reader, "its beginning is being read there"
    if wanted.name is not None:
        near = _within(costs, costs[soonest] + settings.ahead_batches * _full_batch_s(first))
        return _owner(wanted.name, candidates, near), "the name's owner"
    if wanted.priority > 0 and is_known:
        late_s = min(settings.batch_slack * costs[soonest], TIGHT * wanted.left_s - first.finish_s)
        near = _within(costs, costs[soonest] + late_s)
        slowest = max(near, key=lambda place: (outlook.alone_s(place), -costs[place]))
        if slowest != soonest:
            return slowest, "soon enough, and it leaves a faster device to others"
    near = _within(costs, costs[soonest] + settings.near * costs[soonest])
    return (soonest, "the soonest") if len(near) == 1 else (_drawn(near, outlook, draw), "one of the soonest")


def _reader(outlook: Outlook, soonest: int, settings: Ranking) -> int | None:
    """The soonest of those where it need not be read again, unless that is much later."""
    costs, held = outlook.costs, [place for place in range(len(outlook.costs)) if outlook.is_reading(place)]
    if not held:
        return None
    best = min(held, key=costs.__getitem__)
    spared_s = outlook.saved_s(soonest, outlook.at(best).length_held)
    return best if costs[best] <= costs[soonest] + settings.follow_slack * spared_s else None


def _within(costs: Sequence[float], bound: float) -> list[int]:
    return [place for place, cost_s in enumerate(costs) if cost_s <= bound]


def _full_batch_s(expected: Expected) -> float:
    work, speed = expected.work, expected.speed
    if work.steps <= 0:
        return 0.0
    return work.steps * speed.step_s(min(speed.max_amount, speed.max_rows * work.amount / work.steps))


def _owner(name: int, candidates: Sequence[Candidate], near: Sequence[int]) -> int:
    return max(near, key=lambda place: weight(name, candidates[place].seed))


def _drawn(near: Sequence[int], outlook: Outlook, draw: Callable[[], float]) -> int:
    """A device that is twice as fast twice as often."""
    shares = [1.0 / max(outlook.alone_s(place), 1e-9) for place in near]
    left = draw() * sum(shares)
    for place, share in zip(near, shares, strict=True):
        left -= share
        if left <= 0:
            return place
    return near[-1]


def _remembered(wanted: Wanted, best: Expected) -> tuple[str, ...]:
    told, hints = [], wanted.hints
    if best.length_held and wanted.name in hints.chain:
        told.append("its result")
    elif best.length_held:
        amount = best.length_held * (hints.each.amount if hints.each_units is None else hints.each_units)
        told.append(f"{amount:g} {hints.unit} of its beginning".replace("  ", " "))
    if best.num_parts:
        told.append(f"{best.num_parts} of the results that it needs")
    return tuple(told)


def _reasons(best: Expected, why: str, late_s: float, num_full: int) -> tuple[str, ...]:
    told = [why]
    if best.speed is UNKNOWN:
        told.append("nobody knows its speed yet")
    elif late_s:
        told.append(f"{late_s:.3g} s later than the soonest")
    news = best.candidate.news
    if num_others := best.candidate.num_sent + (news.num_items if news is not None else 0):
        told.append(f"{num_others} others are there")
    if num_beside := sum(other.news.num_items for other in best.candidate.others if other.news is not None):
        told.append(f"its device is shared with {num_beside} of other stages")
    if best.speed.is_estimate:
        told.append("its speed is an estimate")
    if num_full:
        told.append(f"{num_full} others are full")
    return tuple(told)
