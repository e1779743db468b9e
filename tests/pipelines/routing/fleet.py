"""Replicas of pools of unlike speed, for tests of who is chosen."""

from collections.abc import Collection, Iterable, Sequence

from pipelines.routing.candidate import Candidate
from pipelines.routing.holding import Held, Holders
from pipelines.routing.ownership import seed_of, weight
from stages.contract.cost import Speed, StepTimes
from stages.contract.news import NO_HINTS, Hints, StageNews, hint
from stages.contract.work import Work

STAGE = "m.stage"


def speed(times: float = 1.0, *, max_rows: int = 8, base_s: float = 0.1, each_s: float = 0.01) -> Speed:
    """A step of one unit takes 0.11 s, each further unit 10 ms, `times` as long."""
    points = ((1.0, times * (base_s + each_s)), (64.0, times * (base_s + 64 * each_s)))
    return Speed(StepTimes(points), max_rows=max_rows, max_amount=64.0)


def news(
    replica: str,
    num_items: int = 0,
    *,
    times: float = 1.0,
    each: Work = Work(10.0, 10.0),
    failing: float = 0.0,
    holds: Iterable[int] = (),
    number: int = 1,
    is_known: bool = True,
) -> StageNews:
    told = speed(times) if is_known else None
    held = frozenset(holds)
    return StageNews(STAGE, replica, "gpu", "float32", told, each * num_items, num_items, failing, held, number=number)


def candidate(
    replica: str, num_items: int = 0, *, pool: str = "pool", heard_at: float = 0.0, times: float = 1.0, **given: object
) -> Candidate:
    told = news(replica, num_items, times=times, **given)  # type: ignore[arg-type]
    return Candidate(pool, replica, told, heard_at, seed=seed_of(replica))


def owner(name: str, replicas: Collection[str]) -> str:
    return max(replicas, key=lambda replica: weight(hint(name), seed_of(replica)))


def held(candidates: Sequence[Candidate], hints: Hints = NO_HINTS) -> Held:
    """What they hold of an item."""
    holders = Holders()
    for one in candidates:
        holders.holds(one, (), one.news.holds if one.news is not None else ())
    return holders.of(hints)
