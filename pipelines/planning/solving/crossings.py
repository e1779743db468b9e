"""What goes from one deployment to another for a request, and how long that takes.

Decides who pays for it in a plan: the stage that asks, so that a replica which has what it needs at hand is seen to save that. Requests
themselves are asked for by the HTTP surface, which is elsewhere in any case. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pipelines.planning.fleet import Demand, Fleet, RequestClass
from stages.contract.cost import StepTimes
from stages.host.kinds.nesting import needed_by


@dataclass(frozen=True, slots=True)
class Calls:
    """What a class's items at a stage have asked for elsewhere: the stage itself (`own_s`; 0: another stage asks for it, or nobody), and by
    stage the results that it needs."""

    of_class: str
    stage: str
    own_s: float
    needs_s: Mapping[str, float]


@lru_cache(maxsize=8)
def calls(classes: tuple[RequestClass, ...], crossing: StepTimes) -> Sequence[Calls]:
    """Wherever the stages are. Requests ask for a stage that no other of their stages needs."""
    found = []
    for each in classes:
        visited = [demand for demand in each.demands if demand.items > 0]
        needed = {need.stage for demand in visited for need in _needed(demand, visited)}
        for demand in visited:
            own_s = 0.0 if demand.stage in needed else crossing.seconds(demand.result_bytes)
            needs_s = {need.stage: crossing.seconds(need.result_bytes) for need in _needed(demand, visited)}
            found.append(Calls(each.name, demand.stage, own_s, needs_s))
    return found


def crossings(group: Sequence[str], calls: Sequence[Calls]) -> Mapping[tuple[str, str], float]:
    """Seconds by class and stage, where these stages share a replica, one call after another."""
    return {
        (each.of_class, each.stage): each.own_s + sum(seconds for stage, seconds in each.needs_s.items() if stage not in group)
        for each in calls
        if each.stage in group
    }


def handing(crossing_s: Mapping[tuple[str, str], float], fleet: Fleet, cpus: float | None) -> Mapping[str, float]:
    """Seconds by stage, of an item on the average: so long all CPUs of a node could have done something else. `cpus`: of the node; None:
    what computes is not its CPUs, and goes on meanwhile."""
    if cpus is None:
        return {}
    items: dict[str, float] = {}
    taken: dict[str, float] = {}
    for each in fleet.classes:
        for demand in each.demands:
            if (each.name, demand.stage) in crossing_s:
                rate = each.rate * demand.items
                items[demand.stage] = items.get(demand.stage, 0.0) + rate
                taken[demand.stage] = taken.get(demand.stage, 0.0) + rate * crossing_s[each.name, demand.stage]
    return {stage: seconds / items[stage] / cpus for stage, seconds in taken.items()}


def _needed(demand: Demand, visited: Sequence[Demand]) -> Sequence[Demand]:
    """What of all that is visited it waits for."""
    needs = needed_by(demand.stage, [other.stage for other in visited])
    return [other for other in visited if other.stage in needs]
