"""Whole numbers of replicas without a search: something to be better than, and enough where the solver runs out of time.

Decides which fraction is rounded next (Achterberg, 2007, fractional diving): the relaxation is solved, whole parts are kept, the largest
fraction is rounded up where there is a device for it, and down where not; and so on with what is left. Pure.
"""

from collections.abc import Callable, Sequence

from pipelines.planning.fleet import Fleet, Rules
from pipelines.planning.solving.columns import Column
from pipelines.planning.solving.program import Asked, most_replicas, relaxed, written

ROUNDING = 1e-6


def dive(
    fleet: Fleet, rules: Rules, columns: Sequence[Column], asked: Asked, scale: float, is_over: Callable[[], bool]
) -> Sequence[int] | None:
    """Replicas by column, or None where it leads nowhere, or not in time."""
    least, most = [0] * len(columns), list(most_replicas(fleet, columns))
    while not is_over():
        between = list(zip(least, most, strict=True))
        found = relaxed(written(fleet, rules, columns, asked, scale=scale, between=between), asked)
        if found is None:
            return None
        least = [max(low, int(count + ROUNDING)) for low, count in zip(least, found.replicas, strict=True)]
        rests = [(count - low, -at) for at, (count, low) in enumerate(zip(found.replicas, least, strict=True))]
        rest, at = max(rests)
        if rest <= ROUNDING:
            return least
        if _has_room(fleet, columns, least, -at):
            least[-at] += 1
        else:
            most[-at] = least[-at]
    return None


def _has_room(fleet: Fleet, columns: Sequence[Column], replicas: Sequence[int], one_more: int) -> bool:
    device = columns[one_more].device
    taken = sum(column.fraction * count for column, count in zip(columns, replicas, strict=True) if column.device == device)
    return taken + columns[one_more].fraction <= next(each.count for each in fleet.devices if each.name == device)
