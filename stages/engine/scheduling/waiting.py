"""What waits for a device, in which order, and when there is no more room. Pure: `now` comes in, in seconds of any one clock.

Decides the rank of what waits (earliest deadline first within a priority, with ageing), what has expired, and when to refuse.
Doesn't know what the work is, what may share a batch or how long a device takes, except through `ServiceRate`.

Ageing: an entry moves up one priority level for every `ageing_s` it has waited. So whatever arrives more than
`(p - q + 1) * ageing_s` after an entry of priority p, with priority q <= p, never ranks before it: nothing waits for ever.
"""

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from stages.contract.errors import QueueFull
from stages.contract.limits import QueueLimits

W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class Entry(Generic[W]):
    """One piece of work for a scheduler. `deadline` and `arrival` are seconds of its clock; a lower `priority` goes first.

    Not `ready`: it is still being prepared, and `cost` is an estimate; it takes room in the queue, and may expire or be
    cancelled, but can't run yet.
    `num_preempted`: how often it ran and had to make way. `was_let_in`: it has its right to wait from before (it ran, it was
    set aside, the bounds were others), so no bound of the queue applies.
    """

    id: str
    work: W
    batch_key: Hashable = None
    cost: float = 1.0
    priority: int = 0
    deadline: float = math.inf
    arrival: float = 0.0
    ready: bool = True
    num_preempted: int = 0
    was_let_in: bool = False

    def amended(self, priority: int, deadline: float) -> "Entry[W]":
        """With the more urgent priority and the later deadline: someone else wants the same result."""
        return replace(self, priority=min(priority, self.priority), deadline=max(deadline, self.deadline))

    def __post_init__(self) -> None:
        if not 0 <= self.cost < math.inf:
            raise ValueError(f"the cost of {self.id} is {self.cost}; a cost is finite and not negative")


class ServiceRate:
    """How much work a device finishes in a second of being busy: an average that half forgets in `half_life_s` of it."""

    def __init__(self, half_life_s: float = 30.0) -> None:
        self._half_life_s = half_life_s
        self._work = 0.0
        self._seconds = 0.0

    def observe(self, work: float, seconds: float) -> None:
        decay = 0.5 ** (seconds / self._half_life_s)
        self._work = self._work * decay + work
        self._seconds = self._seconds * decay + seconds

    def seconds_for(self, work: float) -> float | None:
        """Busy seconds that `work` will take; None while nothing has been finished yet."""
        if self._work <= 0:
            return None
        return work * self._seconds / self._work


class WaitingLine(Generic[W]):
    """The entries that wait, bounded by count and by cost.

    What is set aside waits for something that the device has no part in. It counts for nothing, and comes back in its old place
    whatever has come meanwhile (it was let in before); until then it may only expire, be amended or be taken.
    """

    def __init__(self, name: str, limits: QueueLimits, rate: ServiceRate, ageing_s: float) -> None:
        self._name = name
        self._limits = limits
        self._rate = rate
        self._ageing_s = ageing_s
        self._entries: dict[str, Entry[W]] = {}
        self._aside: dict[str, Entry[W]] = {}
        self._none_expires_before = math.inf

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry[W]]:
        return iter(self._entries.values())

    def __contains__(self, entry_id: str) -> bool:
        """Also what is set aside."""
        return entry_id in self._entries or entry_id in self._aside

    @property
    def cost(self) -> float:
        return math.fsum(entry.cost for entry in self)

    @property
    def num_preparing(self) -> int:
        return sum(not entry.ready for entry in self)

    def add(self, entry: Entry[W]) -> None:
        """Raises `QueueFull` with the seconds after which there will be room, `ValueError` for an id that already waits."""
        if entry.id in self:
            raise ValueError(f"{entry.id} already waits for {self._name}")
        self.refuse_if_full(entry.cost)
        self._entries[entry.id] = entry
        self._none_expires_before = min(self._none_expires_before, entry.deadline)

    def refuse_if_full(self, cost: float) -> None:
        """Raises `QueueFull` where one more of this cost would not be let in."""
        if len(self) >= self._limits.max_items:
            raise self._full(f"{len(self)} items wait, and queue.max_items is {self._limits.max_items}")
        self._make_sure_of_room(cost, beside=self.cost)

    def limit(self, limits: QueueLimits) -> None:
        """New bounds, for what comes from now on."""
        self._limits = limits
        self._entries = {entry.id: replace(entry, was_let_in=True) for entry in self}

    def put_back(self, entry: Entry[W], now: float) -> None:
        """It ran and had to make way: it waits again, from now on."""
        self._return(replace(entry, arrival=now, num_preempted=entry.num_preempted + 1, was_let_in=True))

    def give_back(self, entry: Entry[W]) -> None:
        """It ran and could not go on: it waits again, in its old place."""
        self._return(replace(entry, was_let_in=True))

    def _return(self, entry: Entry[W]) -> None:
        self._entries[entry.id] = entry
        self._none_expires_before = min(self._none_expires_before, entry.deadline)

    def set_aside(self, entry_id: str) -> None:
        """It counts for nothing until `bring_back`."""
        self._aside[entry_id] = self._entries.pop(entry_id)

    def bring_back(self, entry_id: str) -> bool:
        """It is prepared again, in its old place. False: it is not aside (any more)."""
        entry = self._aside.pop(entry_id, None)
        if entry is None:
            return False
        self._return(replace(entry, ready=False, was_let_in=True))
        return True

    def ready(self, entry_id: str, batch_key: Hashable, cost: float) -> bool:
        """It is prepared, and may run; what it costs is now exact. False: it is no longer here. Raises `QueueFull` (it costs more
        than was thought, and there is no room for that) or `ValueError`, and is then gone."""
        entry = self._entries.get(entry_id)
        if entry is None:
            return False
        try:
            prepared = replace(entry, batch_key=batch_key, cost=cost, ready=True)
            if cost > entry.cost and not entry.was_let_in:
                self._make_sure_of_room(cost, beside=math.fsum(other.cost for other in self if other is not entry))
        except Exception:
            del self._entries[entry_id]
            raise
        self._entries[entry_id] = prepared  # in its old place: who is prepared first doesn't matter
        return True

    def amend(self, entry_id: str, priority: int, deadline: float) -> None:
        """As `Entry.amended`, where it is here."""
        for line in self._lines():
            if (entry := line.get(entry_id)) is not None:
                line[entry_id] = entry.amended(priority, deadline)

    def take(self, entry_id: str) -> Entry[W] | None:
        return self._entries.pop(entry_id, None) or self._aside.pop(entry_id, None)

    def take_all(self) -> list[Entry[W]]:
        everything = [entry for line in self._lines() for entry in line.values()]
        for line in self._lines():
            line.clear()
        return everything

    def take_expired(self, now: float) -> list[Entry[W]]:
        if now < self._none_expires_before:  # asked at every step, so it had better be cheap
            return []
        expired = [entry for line in self._lines() for entry in line.values() if entry.deadline <= now]
        for entry in expired:
            self.take(entry.id)
        left = (entry.deadline for line in self._lines() for entry in line.values())
        self._none_expires_before = min(left, default=math.inf)
        return expired

    def _lines(self) -> tuple[dict[str, Entry[W]], dict[str, Entry[W]]]:
        return self._entries, self._aside

    def has_ready(self) -> bool:
        return any(entry.ready for entry in self)

    def first(self, now: float) -> Entry[W] | None:
        """Whoever may run and ranks first."""
        return min((entry for entry in self if entry.ready), key=lambda entry: self._rank(entry, now), default=None)

    def ranked(self, now: float) -> list[Entry[W]]:
        """Those that may run, the next one first."""
        return sorted((entry for entry in self if entry.ready), key=lambda entry: self._rank(entry, now))

    def _rank(self, entry: Entry[W], now: float) -> tuple[float, float, float]:
        level = entry.priority - math.floor((now - entry.arrival) / self._ageing_s)
        return level, entry.deadline, entry.arrival

    def _make_sure_of_room(self, cost: float, *, beside: float) -> None:
        limit = self._limits.max_cost
        if beside > 0 and beside + cost > limit:
            raise self._full(f"work of {beside:g} waits, this would add {cost:g}, and queue.max_cost is {limit:g}")

    def _full(self, why: str) -> QueueFull:
        return QueueFull(f"the queue of stage {self._name} is full: {why}", retry_after_s=self.retry_after_s())

    def retry_after_s(self) -> float:
        """When half of what waits will have run, at the rate observed so far: by then there is room for more than one."""
        return max(1.0, (self._rate.seconds_for(self.cost) or 0.0) / 2)

    def check_integrity(self) -> None:
        """Raises `RuntimeError` for a broken invariant."""
        fresh = [entry for entry in self if not entry.was_let_in]
        if len(fresh) > self._limits.max_items:
            raise RuntimeError(f"{len(fresh)} entries wait, more than {self._limits.max_items}")
        costs = [entry.cost for entry in fresh if entry.cost > 0]
        if len(costs) > 1 and math.fsum(costs) > self._limits.max_cost:
            raise RuntimeError(f"work of {math.fsum(costs)} waits, more than {self._limits.max_cost}")
        everything = [pair for line in self._lines() for pair in line.items()]
        if any(entry.deadline < self._none_expires_before for _, entry in everything):
            raise RuntimeError("an entry could expire unnoticed")
        if any(entry_id != entry.id for entry_id, entry in everything):
            raise RuntimeError("an entry is filed under an id that is not its own")
        if self._entries.keys() & self._aside.keys():
            raise RuntimeError("an entry waits and is set aside at the same time")
