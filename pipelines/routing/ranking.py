"""Which replica of a stage, of all its pools, an item goes to: where it is expected to be done soonest.

Decides who among near equals is taken, so that many who know the same don't all choose the same one: at random, a faster device more
often. Exceptions that cost little: a result's name goes to its owner, as long as that is not much later than elsewhere, so that it is made
once; what is not urgent leaves faster devices to others, where its deadline allows it. Whoever holds something of the item needs less time
for it, and is therefore sooner; its line is never longer than another's by more than that saves. Pure: chance is handed in.
"""

from collections.abc import Callable, Sequence

from pipelines.routing.candidate import UNKNOWN, Candidate, Ranked, Ranking, Wanted
from pipelines.routing.expected import Expected, expected_at
from pipelines.routing.ownership import weight

TIGHT = 0.5
"""A deadline is near where the earliest finish takes more than this part of the time that is left."""


def rank(
    wanted: Wanted, candidates: Sequence[Candidate], now: float, draw: Callable[[], float], settings: Ranking = Ranking()
) -> Ranked | None:
    """None: there are no candidates. Where all are full, the one that would be soonest all the same. `draw`: numbers from 0 to 1."""
    free = [candidate for candidate in candidates if not candidate.is_full] or candidates
    if not free:
        return None
    expected = expected_at(free, wanted, now, settings)
    soonest = min(expected, key=_cost)
    best, why = _chosen(wanted, expected, soonest, draw, settings)
    runner_up = min((one for one in expected if one is not best), key=_cost, default=None)
    return Ranked(
        best=best.candidate,
        finish_s=best.finish_s,
        speed=best.speed,
        alone_s=best.alone_s,
        runner_up=runner_up.candidate if runner_up is not None else None,
        runner_up_s=runner_up.finish_s if runner_up is not None else None,
        remembered=_remembered(wanted, best),
        reasons=_reasons(best, runner_up, why, num_full=len(candidates) - len(free)),
    )


def _cost(expected: Expected) -> float:
    return expected.cost_s


def _chosen(
    wanted: Wanted, expected: Sequence[Expected], soonest: Expected, draw: Callable[[], float], settings: Ranking
) -> tuple[Expected, str]:
    """And in half a sentence why."""
    if len(expected) == 1:
        return soonest, "the only one"
    is_known = soonest.speed is not UNKNOWN
    if wanted.priority < 0 or (is_known and soonest.finish_s > TIGHT * wanted.left_s):
        return soonest, "the soonest, as it is urgent"
    if soonest.num_held:
        return soonest, "the soonest, with what it holds of it"
    if wanted.name is not None:
        return _owner(
            wanted.name, _within(expected, soonest, settings.ahead_batches * _full_batch_s(soonest))
        ), "the name's owner"
    if wanted.priority > 0 and is_known:
        late_s = min(settings.batch_slack * soonest.cost_s, TIGHT * wanted.left_s - soonest.finish_s)
        slowest = max(_within(expected, soonest, late_s), key=lambda one: (one.alone_s, -one.cost_s))
        if slowest is not soonest:
            return slowest, "soon enough, and it leaves a faster device to others"
    near = _within(expected, soonest, settings.near * soonest.cost_s)
    return (soonest, "the soonest") if len(near) == 1 else (_drawn(near, draw), "one of the soonest")


def _within(expected: Sequence[Expected], soonest: Expected, late_s: float) -> list[Expected]:
    bound = soonest.cost_s + late_s
    return [one for one in expected if one.cost_s <= bound]


def _full_batch_s(expected: Expected) -> float:
    work, speed = expected.work, expected.speed
    if work.steps <= 0:
        return 0.0
    return work.steps * speed.step_s(min(speed.max_amount, speed.max_rows * work.amount / work.steps))


def _owner(name: int, near: Sequence[Expected]) -> Expected:
    return max(near, key=lambda one: weight(name, one.candidate.seed))


def _drawn(near: Sequence[Expected], draw: Callable[[], float]) -> Expected:
    """A device that is twice as fast twice as often."""
    shares = [1.0 / max(one.alone_s, 1e-9) for one in near]
    left = draw() * sum(shares)
    for one, share in zip(near, shares, strict=True):
        left -= share
        if left <= 0:
            return one
    return near[-1]


def _remembered(wanted: Wanted, best: Expected) -> tuple[str, ...]:
    told = []
    if best.num_held and wanted.name in wanted.hints.chain:
        told.append("its result")
    elif best.num_held:
        amount = best.num_held * wanted.hints.each.amount
        told.append(f"{amount:g} {wanted.hints.unit} of its beginning".replace("  ", " "))
    if best.num_parts:
        told.append(f"{best.num_parts} of the results that it needs")
    return tuple(told)


def _reasons(best: Expected, runner_up: Expected | None, why: str, num_full: int) -> tuple[str, ...]:
    told = [why]
    if best.speed is UNKNOWN:
        told.append("nobody knows its speed yet")
    elif runner_up is not None and runner_up.cost_s < best.cost_s:
        told.append(f"{best.finish_s - runner_up.finish_s:.3g} s later than the soonest")
    news = best.candidate.news
    if num_others := best.candidate.num_sent + (news.num_items if news is not None else 0):
        told.append(f"{num_others} others are there")
    if best.speed.is_estimate:
        told.append("its speed is an estimate")
    if num_full:
        told.append(f"{num_full} others are full")
    return tuple(told)
