"""How much of a bounded line each tenant may take. Pure.

One tenant alone may fill the line. Where it is full, whoever holds less than an equal part of it is let in all the same, and everyone
may have one item. So nobody is kept out by what others sent, and with n tenants at most 1 + 1/2 + ... + 1/n of the bound waits, and
one item each. The other way, to throw out the latest item of whoever has most (McKenney, "Stochastic Fairness Queueing", INFOCOM
1990), would keep to the bound exactly, but fails work that was accepted, and with one item the whole request that it is a part of.

What nobody waits for (its priority is over that of a request that says nothing) is let into the first half of the line only: whoever
sends it can come back, and there is room for those who can't.

Knows no order, and not what the items are.
"""

from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from stages.contract.limits import QueueLimits

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class Held:
    """By one of those who share a line."""

    items: int = 0
    cost: float = 0.0


class Tally(Generic[K]):
    """Who holds how much. Only who holds something is known."""

    def __init__(self) -> None:
        self.items = 0
        self._held: dict[K, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: K) -> bool:
        return key in self._held

    def __iter__(self) -> Iterator[K]:
        return iter(self._held)

    def keys(self) -> Collection[K]:
        return self._held.keys()

    def of(self, key: K) -> Held:
        return self._held.get(key) or Held()

    @property
    def cost(self) -> float:
        return sum(held.cost for held in self._held.values())

    def add(self, key: K, cost: float = 0.0) -> None:
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = Held()
        self.items += 1
        held.items += 1
        held.cost += cost

    def remove(self, key: K, cost: float = 0.0) -> None:
        held = self._held[key]
        self.items -= 1
        held.items -= 1
        held.cost -= cost
        if not held.items:  # and with it what rounding has left of the cost
            del self._held[key]


def open_to(priority: int, limits: QueueLimits) -> QueueLimits:
    """The part of a line that what is so urgent is let into."""
    return limits if priority <= 0 else QueueLimits(max(1, limits.max_items // 2), limits.max_cost / 2)


def has_room_for_another(tally: Tally[str], tenant: str, limits: QueueLimits) -> bool:
    """Whether one more item of this tenant is let in."""
    part = max(1, limits.max_items // _num_sharing(tally, tenant))
    return tally.items < limits.max_items or tally.of(tenant).items < part


def has_room_for_cost(tally: Tally[str], tenant: str, cost: float, limits: QueueLimits) -> bool:
    """Whether so much more work of this tenant is let in. A single item over the bound is, where its tenant has nothing that
    waits."""
    own, part = tally.of(tenant).cost, limits.max_cost / _num_sharing(tally, tenant)
    return own <= 0 or tally.cost + cost <= limits.max_cost or own + cost <= part


def _num_sharing(tally: Tally[str], tenant: str) -> int:
    return len(tally) + (tenant not in tally)
