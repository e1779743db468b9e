"""Whose turn it is where several tenants want one device: whoever has had least of it. Pure.

Every tenant has a counter of the service that it has had, in device-seconds over its weight, and the lowest of those that want service
goes first (virtual token counters: Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024; the idea is that of
start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996). What ran is charged when the device is done with it, so an answer whose
length nobody knows is charged as it is made. Until then it counts by its cost, at the rate observed so far; while no rate is known the
stage's own unit of cost stands for seconds. Nobody has credit from a time when they wanted nothing: virtual time is the lowest
counter of those that wanted service last, and whoever comes later starts there.

A batch has one key, so somebody may be left out of it whose work has another. Others then come along only until they are a batch's
worth ahead of whoever is left out. So of two tenants that both want service all the time neither gets ahead of the other by more
than about two batches.

Within a tenant the order is its own affair: it is handed in. A tenant's priorities and deadlines say nothing about others' work.
"""

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heapreplace
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

from stages.contract.limits import BatchLimits
from stages.engine.scheduling.affine_time import AffineTime

LEAST_SHARE = 1e-3  # of an equal share of a batch: what costs nothing has been on the device, too
HALF_LIFE_S = 30.0  # of computing
EQUAL: Mapping[str, float] = MappingProxyType({})


class Sized(Protocol):
    """What may share a batch."""

    @property
    def batch_key(self) -> Hashable: ...

    @property
    def cost(self) -> float: ...


S = TypeVar("S", bound=Sized)


class VirtualCounters:
    """What tenants have had of one device. `weights`: how much of it is a tenant's, compared to others; 1 where nothing is said."""

    def __init__(self, weights: Mapping[str, float] = EQUAL) -> None:
        self._weights = weights
        self._served: dict[str, float] = {}  # of whoever is ahead of virtual time
        self._time = 0.0
        self._seen = AffineTime(HALF_LIFE_S)

    def of(self, tenant: str) -> float:
        return max(self._time, self._served.get(tenant, self._time))

    def begin(self, tenants: Collection[str]) -> None:
        """Before a choice, with all that want service now: virtual time goes on to the lowest of their counters."""
        self._time = min(map(self.of, tenants), default=self._time)
        if len(self._served) > len(tenants):  # who is gone, and has nothing ahead, is as good as new
            self._served = {tenant: served for tenant, served in self._served.items() if served > self._time}

    def expected(self, tenant: str, cost: float) -> float:
        """By how much the counter will go up for work of that cost."""
        return self._seconds(cost) / self._weights.get(tenant, 1.0)

    def charge(self, used: Mapping[str, float], seconds: float) -> None:
        """Work of these tenants, of these costs, kept the device busy for so long."""
        total = sum(used.values())
        seconds_charged = seconds or self._seconds(total)
        self._seen.observe(total, seconds, age=seconds)
        least = LEAST_SHARE * total / len(used) if total else 1.0
        shares = {tenant: max(cost, least) for tenant, cost in used.items()}
        each = seconds_charged / sum(shares.values())
        for tenant, share in shares.items():
            self._served[tenant] = self.of(tenant) + each * share / self._weights.get(tenant, 1.0)

    def rest(self) -> None:
        """Nobody wants anything: whoever had the device to themselves owes nothing for that."""
        self._time = max(self._served.values(), default=self._time)
        self._served.clear()

    def _seconds(self, cost: float) -> float:
        return self._seen.on_average(cost) or cost


def fill(ranked: Iterable[S], limits: BatchLimits) -> list[S]:
    """The first, and whatever may share a batch with it and still fits, in order.

    Something too big is passed over, not waited for: it will lead a batch of its own once it ranks first.
    """
    chosen: list[S] = []
    cost = 0.0
    for candidate in ranked:
        if not chosen or (candidate.batch_key == chosen[0].batch_key and cost + candidate.cost <= limits.max_cost):
            chosen.append(candidate)
            cost += candidate.cost
            if len(chosen) == limits.max_items:
                break
    return chosen


class _Filling(Generic[S]):
    """A batch that is being formed."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self.chosen: list[S] = []
        self._cost = 0.0

    @property
    def is_full(self) -> bool:
        return len(self.chosen) == self._limits.max_items

    def takes(self, candidate: S) -> bool:
        """The first always; of others what may share a batch with it and still fits."""
        if self.chosen:
            cost = self._cost + candidate.cost
            if candidate.batch_key != self.chosen[0].batch_key or cost > self._limits.max_cost:
                return False
        self.chosen.append(candidate)
        self._cost += candidate.cost
        return True


def fill_fairly(lines: Mapping[str, Sequence[S]], limits: BatchLimits, counters: VirtualCounters) -> list[S]:
    """As `fill`, over the lines of several tenants, each in an order of its own. Of equal counters the line that is given first
    goes first."""
    if len(lines) == 1:
        return fill(next(iter(lines.values())), limits)
    batch: _Filling[S] = _Filling(limits)
    turns = [(counters.of(tenant), place, tenant, iter(line)) for place, (tenant, line) in enumerate(lines.items())]
    heapify(turns)
    left_out, largest = math.inf, 0.0
    while turns and not batch.is_full:
        served, place, tenant, line = turns[0]
        if served - left_out > limits.max_items * counters.expected(tenant, largest):
            break
        taken, was_refused = _next_taken(line, batch)
        if was_refused:
            left_out = min(left_out, served)
        if taken is None:
            heappop(turns)
        else:
            largest = max(largest, taken.cost)
            heapreplace(turns, (served + counters.expected(tenant, taken.cost), place, tenant, line))
    return batch.chosen


def _next_taken(line: Iterable[S], batch: _Filling[S]) -> tuple[S | None, bool]:
    """What the batch takes of what is left of a line, if anything; and whether it had to leave something out before."""
    was_refused = False
    for candidate in line:
        if batch.takes(candidate):
            return candidate, was_refused
        was_refused = True
    return None, was_refused
