"""How a bound on a request's time is shared out among the stages that it visits.

Pure. Decides the longest time that each stage may take, so that together they keep the bound. Which way of sharing out gives the best plan
nobody knows beforehand; a few are offered.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipelines.planning.solving.columns import Column, Key
from pipelines.planning.solving.limits import Limit
from pipelines.planning.solving.program import Solution

ROUNDING = 1e-6
POWERS = (
    1.0,
    0.5,
    0.0,
)  # what is left of a bound: in proportion to the stages' quickest times, to their roots, in equal parts

Times = Mapping[Key, float]


def ways(bounds: Sequence[Limit], used: Times, quickest: Times) -> Sequence[Times]:
    """`used`: by a solution that knows of no such bounds, `quickest`: by any column. All of them keep all bounds."""
    found = [stretched(bounds, used), *(shared_out(bounds, quickest, power) for power in POWERS)]
    return [times for at, times in enumerate(found) if times not in found[:at]]


def stretched(bounds: Sequence[Limit], taken: Times) -> Times:
    """The times of every bound's stages, each as many times as long as keeps the bound."""
    return {key: taken[key] * limit.bound_s / total(limit, taken) for limit in bounds for key in keys(limit) if key in taken}


def shared_out(bounds: Sequence[Limit], quickest: Times, power: float) -> Times:
    """What is left of each bound goes to its stages in proportion to this power of their quickest times."""
    found: dict[Key, float] = {}
    for limit in bounds:
        mine = {key: quickest[key] for key in keys(limit) if key in quickest}
        weights = {key: seconds**power for key, seconds in mine.items()}
        left = max(0.0, limit.bound_s - sum(mine.values()))
        found |= {key: seconds + left * weights[key] / sum(weights.values()) for key, seconds in mine.items()}
    return found


def longest(bounds: Sequence[Limit], solution: Solution, columns: Sequence[Column]) -> Times:
    """Of every bound and stage, the time of the slowest column that a solution sends work to."""
    found: dict[Key, float] = {}
    for of_class, stage, at in solution.busy:
        for limit in bounds:
            key = (of_class, limit.setting, stage)
            if limit.of_class == of_class and key in columns[at].taken_s:
                found[key] = max(found.get(key, 0.0), columns[at].taken_s[key])
    return found


def narrowed(column: Column, most: Times) -> Column:
    """Closed to the classes that it would take longer."""
    late = {
        (of_class, stage)
        for (of_class, setting, stage), seconds in column.taken_s.items()
        if seconds > most.get((of_class, setting, stage), math.inf) * (1 + ROUNDING)
    }
    return replace(column, serves=column.serves - late) if late else column


def keys(limit: Limit) -> Sequence[Key]:
    return [(limit.of_class, limit.setting, demand.stage) for demand, _ in limit.path]


def total(limit: Limit, taken: Times) -> float:
    return sum(taken.get(key, 0.0) for key in keys(limit))
