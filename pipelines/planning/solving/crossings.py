"""What goes from one deployment to another for a request, and how long that takes.

Decides who pays for it in a plan: the stage that asks, so that a replica which has what it needs at hand is seen to save that. Requests
themselves are asked for by the HTTP surface, which is elsewhere in any case. Pure.
"""

from collections.abc import Mapping, Sequence

from pipelines.planning.fleet import Demand, Fleet, RequestClass
from stages.host.nesting import needed_by


def crossings(group: Sequence[str], fleet: Fleet) -> Mapping[tuple[str, str], float]:
    """Seconds by class and stage, where these stages share a replica: the call of a stage that nobody in the fleet needs, with its result,
    and those results that it needs and are made elsewhere, one after another."""
    found = {}
    for each in fleet.classes:
        visited = [demand for demand in each.demands if demand.items > 0]
        for demand in visited:
            if demand.stage in group:
                needs = _needed(demand, each)
                calls = [need for need in needs if need.stage not in group]
                is_asked_for = not any(demand in _needed(other, each) for other in visited)
                seconds = [fleet.crossing.seconds(call.result_bytes) for call in (*calls, *([demand] if is_asked_for else []))]
                found[each.name, demand.stage] = sum(seconds)
    return found


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


def _needed(demand: Demand, of: RequestClass) -> Sequence[Demand]:
    """What of the class's demands it waits for."""
    needs = needed_by(demand.stage, [other.stage for other in of.demands])
    return [other for other in of.demands if other.stage in needs and other.items > 0]
