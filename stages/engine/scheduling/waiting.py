"""What waits for a device, in which order, and when there is no more room. Pure: `now` comes in, in seconds of any one clock.

Decides the rank of what waits of one tenant (earliest deadline first within a priority, with ageing), what has expired, and when to
refuse (`stages/engine/scheduling/room.py`). Whose turn it is of several tenants is for `stages/engine/scheduling/fairness.py`.
Doesn't know what the work is, what may share a batch or how long a device takes: that is handed in.

Ageing: an entry moves up one priority level for every `ageing_s` it has waited. So whatever arrives more than
`(p - q + 1) * ageing_s` after an entry of priority p, with priority q <= p, never ranks before it: nothing waits for ever.

A request of many pieces doesn't make others of its tenant wait for all of them. Among equal priorities the lowest start tag goes first
(start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996): a piece's is the sum of its request's pieces before it, by cost, from
the tenant's virtual time on, which is the highest tag that has begun. So whatever comes goes before what is left of a request that
came before. What is left ages from when the request last had its turn. While every request has one piece all tags are the same.
"""

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from stages.contract.errors import QueueFull
from stages.contract.item import DEFAULT_TENANT
from stages.contract.limits import QueueLimits
from stages.contract.work import NO_WORK, Work
from stages.engine.scheduling.room import Tally, has_room_for_another, has_room_for_cost, open_to

W = TypeVar("W")
_Request = tuple[str, str]  # tenant, and request
Drain = Callable[[Work, int], float]
"""Seconds that a device takes for so much, of so many items; 0 while nobody knows."""


def unknown_s(work: Work, num_items: int) -> float:
    """Before anything was seen."""
    return 0.0


@dataclass(frozen=True, slots=True)
class Entry(Generic[W]):
    """One piece of work for a scheduler. `deadline` and `arrival` are seconds of its clock; a lower `priority` goes first.

    Not `ready`: it is still being prepared, and `cost` is an estimate; it takes room in the queue, and may expire or be
    cancelled, but can't run yet.
    `num_preempted`: how often it ran and had to make way. `was_let_in`: it has its right to wait from before (it ran, it was
    set aside, the bounds were others), so no bound of the queue applies.
    `expected`: about how much is left to do of it, all steps together (None: what it costs, in one step).
    `request`: what it is a piece of ("": of nothing that has other pieces). `start_tag`: given to it by the line.
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
    tenant: str = DEFAULT_TENANT
    request: str = ""
    start_tag: float = 0.0
    expected: Work | None = field(default=None, compare=False)  # a guess that changes as it goes

    @property
    def outstanding(self) -> Work:
        return Work(self.cost, 1.0) if self.expected is None else self.expected

    def amended(self, priority: int, deadline: float) -> "Entry[W]":
        """With the more urgent priority and the later deadline: someone else wants the same result."""
        return replace(self, priority=min(priority, self.priority), deadline=max(deadline, self.deadline))

    def __post_init__(self) -> None:
        if not 0 <= self.cost < math.inf:
            raise ValueError(f"the cost of {self.id} is {self.cost}; a cost is finite and not negative")


def _half(priority: int) -> str:
    return f", of which what has a priority over 0 (it has {priority}) may take half" if priority > 0 else ""


class WaitingLine(Generic[W]):
    """The entries that wait, bounded by count and by cost.

    What is set aside waits for something that the device has no part in. It counts for nothing, and comes back in its old place
    whatever has come meanwhile (it was let in before); until then it may only expire, be amended or be taken.
    """

    def __init__(self, name: str, limits: QueueLimits, ageing_s: float, drain_s: Drain = unknown_s) -> None:
        self.num_let_in_beyond = 0
        """How many were let in though the line was full: their tenant had less than its part of it."""
        self._name = name
        self._limits = limits
        self._drain_s = drain_s
        self._ageing_s = ageing_s
        self._entries: dict[str, Entry[W]] = {}
        self._aside: dict[str, Entry[W]] = {}
        self._tenants: Tally[str] = Tally()
        self._ready: Tally[str] = Tally()
        self._requests: Tally[_Request] = Tally()
        self._outstanding = NO_WORK
        self._outstanding_of: dict[str, Work] = {}
        self._num_later = 0  # of priority over 0
        self._virtual_time: dict[str, float] = {}  # of each tenant that has something in line
        self._finish_tags: dict[_Request, float] = {}  # of the last piece of each request that has some in line
        self._had_turn: dict[_Request, float] = {}  # when such a request had its last turn
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
        return self._tenants.cost

    @property
    def outstanding(self) -> Work:
        """What is left to do of all that waits."""
        return self._outstanding

    def left_for_later(self, now: float | None) -> Mapping[str, tuple[Work, int]]:
        """What of that a newcomer of priority 0 of the same tenant would go before, and of how many. `now` None: nothing has aged."""
        found: dict[str, tuple[Work, int]] = {}
        if self._num_later:
            rank = self._rank(0.0 if now is None else now)
            for entry in self:
                if entry.priority > 0 and (now is None or rank(entry)[0] > 0):
                    later, num_later = found.get(entry.tenant, (NO_WORK, 0))
                    found[entry.tenant] = later + entry.outstanding, num_later + 1
        return found

    def left_of_tenants(self) -> Mapping[str, tuple[Work, int]]:
        """What of that is each tenant's, and how many items."""
        return {tenant: (left, self._tenants.of(tenant).items) for tenant, left in self._outstanding_of.items()}

    @property
    def num_preparing(self) -> int:
        return len(self) - self._ready.items

    @property
    def num_tenants(self) -> int:
        return len(self._tenants)

    @property
    def none_expires_before(self) -> float:
        """Nothing here is past its deadline until then; what is, is found out once somebody asks for it."""
        return self._none_expires_before

    def add(self, entry: Entry[W]) -> None:
        """Raises `QueueFull` with the seconds after which there will be room, `ValueError` for an id that already waits."""
        if entry.id in self:
            raise ValueError(f"{entry.id} already waits for {self._name}")
        self.refuse_if_full(entry.cost, entry.tenant, entry.priority)
        if len(self) >= self._limits.max_items or 0 < self.cost > self._limits.max_cost - entry.cost:
            self.num_let_in_beyond += 1
        request = entry.tenant, entry.request
        start_tag = max(self._virtual_time.get(entry.tenant, 0.0), self._finish_tags.get(request, 0.0))
        if entry.request:
            self._finish_tags[request] = start_tag + entry.cost
        self._put(replace(entry, start_tag=start_tag) if start_tag else entry)

    def begin(self, entry_id: str, now: float) -> Entry[W] | None:
        """Takes it, since its turn has come. None: it is not here."""
        entry = self.take(entry_id)
        if entry is not None and entry.tenant in self._tenants:
            self._virtual_time[entry.tenant] = max(self._virtual_time.get(entry.tenant, 0.0), entry.start_tag)
            self.have_turn([entry], now)
        return entry

    def have_turn(self, entries: Iterable[Entry[W]], now: float) -> None:
        """These run, or ran until now: what is left of their requests has not waited in vain."""
        for entry in entries:
            if entry.request and (request := (entry.tenant, entry.request)) in self._requests:
                self._had_turn[request] = now

    def refuse_if_full(self, cost: float, tenant: str = DEFAULT_TENANT, priority: int = 0) -> None:
        """Raises `QueueFull` where one more of this cost would not be let in."""
        if not has_room_for_another(self._tenants, tenant, open_to(priority, self._limits)):
            raise self._full(f"{len(self)} items wait, and queue.max_items is {self._limits.max_items}{_half(priority)}")
        self._refuse_cost(cost, tenant, priority)

    def limit(self, limits: QueueLimits) -> None:
        """New bounds, for what comes from now on."""
        self._limits = limits
        self._entries = {entry.id: replace(entry, was_let_in=True) for entry in self}

    def put_back(self, entry: Entry[W], now: float) -> None:
        """It ran and had to make way: it waits again, from now on."""
        self._put(replace(entry, arrival=now, num_preempted=entry.num_preempted + 1, was_let_in=True))

    def give_back(self, entry: Entry[W]) -> None:
        """It ran and could not go on: it waits again, in its old place."""
        self._put(replace(entry, was_let_in=True))

    def set_aside(self, entry_id: str) -> None:
        """It counts for nothing until `bring_back`."""
        self._aside[entry_id] = self._remove(self._entries[entry_id])

    def bring_back(self, entry_id: str) -> bool:
        """It is prepared again, in its old place. False: it is not aside (any more)."""
        entry = self._aside.pop(entry_id, None)
        if entry is None:
            return False
        self._put(replace(entry, ready=False, was_let_in=True))
        return True

    def ready(self, entry_id: str, batch_key: Hashable, cost: float) -> bool:
        """It is prepared, and may run; what it costs is now exact. False: it is no longer here. Raises `QueueFull` (it costs more
        than was thought, and there is no room for that) or `ValueError`, and is then gone."""
        entry = self._entries.get(entry_id)
        if entry is None:
            return False
        try:
            prepared = replace(entry, batch_key=batch_key, cost=cost, ready=True)
        except ValueError:
            self._remove(entry)
            raise
        self._uncount(entry)
        try:
            if cost > entry.cost and not entry.was_let_in:
                self._refuse_cost(cost, entry.tenant, entry.priority)
        except QueueFull:
            del self._entries[entry_id]
            self._forget(entry)
            raise
        self._entries[entry_id] = prepared  # in its old place: who is prepared first doesn't matter
        self._count(prepared)
        return True

    def amend(self, entry_id: str, priority: int, deadline: float) -> None:
        """As `Entry.amended`, where it is here."""
        for line in self._lines():
            if (entry := line.get(entry_id)) is not None:
                earliest = min(
                    entry.start_tag, self._virtual_time.get(entry.tenant, 0.0)
                )  # another request has no other pieces
                line[entry_id] = amended = replace(entry.amended(priority, deadline), start_tag=earliest)
                if line is self._entries:
                    self._num_later += (amended.priority > 0) - (entry.priority > 0)

    def take(self, entry_id: str) -> Entry[W] | None:
        entry = self._entries.get(entry_id)
        return self._aside.pop(entry_id, None) if entry is None else self._remove(entry)

    def take_all(self) -> list[Entry[W]]:
        everything = [entry for line in self._lines() for entry in line.values()]
        for entry in everything:
            self.take(entry.id)
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

    def _put(self, entry: Entry[W]) -> None:
        """What comes back has its start tag from before, which may be of another time: at worst it goes by its ageing."""
        self._entries[entry.id] = entry
        self._count(entry)
        self._none_expires_before = min(self._none_expires_before, entry.deadline)

    def _remove(self, entry: Entry[W]) -> Entry[W]:
        del self._entries[entry.id]
        self._uncount(entry)
        self._forget(entry)
        return entry

    def _count(self, entry: Entry[W]) -> None:
        self._tenants.add(entry.tenant, entry.cost)
        self._outstanding += entry.outstanding
        self._outstanding_of[entry.tenant] = self._outstanding_of.get(entry.tenant, NO_WORK) + entry.outstanding
        self._num_later += entry.priority > 0
        if entry.ready:
            self._ready.add(entry.tenant)
        if entry.request:
            self._requests.add((entry.tenant, entry.request))

    def _uncount(self, entry: Entry[W]) -> None:
        self._tenants.remove(entry.tenant, entry.cost)
        self._num_later -= entry.priority > 0
        self._outstanding = self._outstanding - entry.outstanding if self._tenants else NO_WORK  # and what rounding has left
        if entry.tenant in self._tenants:
            self._outstanding_of[entry.tenant] -= entry.outstanding
        else:
            del self._outstanding_of[entry.tenant]
        if entry.ready:
            self._ready.remove(entry.tenant)
        if entry.request:
            self._requests.remove((entry.tenant, entry.request))

    def _forget(self, entry: Entry[W]) -> None:
        """What was known of its tenant and its request, where it was the last of them in line."""
        if entry.tenant not in self._tenants:
            self._virtual_time.pop(entry.tenant, None)
        if (request := (entry.tenant, entry.request)) not in self._requests:
            self._finish_tags.pop(request, None)
            self._had_turn.pop(request, None)

    def _lines(self) -> tuple[dict[str, Entry[W]], dict[str, Entry[W]]]:
        return self._entries, self._aside

    def has_ready(self) -> bool:
        return len(self._ready) > 0

    def ready_tenants(self) -> Collection[str]:
        """Who has something that may run."""
        return self._ready.keys()

    def first(self, now: float) -> Entry[W] | None:
        """Whoever may run and ranks first, as if all were of one tenant."""
        return min((entry for entry in self if entry.ready), key=self._rank(now), default=None)

    def ranked(self, now: float) -> list[Entry[W]]:
        """Those that may run, as if they were of one tenant: the next one first."""
        return sorted((entry for entry in self if entry.ready), key=self._rank(now))

    def by_tenant(self, now: float) -> dict[str, list[Entry[W]]]:
        """Those that may run, the next one of each tenant first; the tenants by whose first one came first."""
        ranked = self.ranked(now)
        if len(self._ready) == 1:
            return {ranked[0].tenant: ranked}
        lines: dict[str, list[Entry[W]]] = {}
        for entry in ranked:
            lines.setdefault(entry.tenant, []).append(entry)
        return dict(sorted(lines.items(), key=lambda pair: pair[1][0].arrival))

    def first_of_each(self, entry_ids: Iterable[str], now: float) -> dict[str, Entry[W]]:
        """Of these, whoever ranks first of each tenant; the tenants in the order that they are met in."""
        entries = [entry for entry in map(self._entries.get, entry_ids) if entry is not None]
        rank, lines = self._rank(now), dict[str, list[Entry[W]]]()
        for entry in entries:
            lines.setdefault(entry.tenant, []).append(entry)
        return {tenant: min(line, key=rank) for tenant, line in lines.items()}

    def _rank(self, now: float) -> Callable[[Entry[W]], tuple[float, float, float, float]]:
        ageing_s, had_turn = self._ageing_s, self._had_turn

        def rank(entry: Entry[W]) -> tuple[float, float, float, float]:
            since = entry.arrival
            if entry.request and had_turn:
                since = max(since, had_turn.get((entry.tenant, entry.request), since))
            return entry.priority - math.floor((now - since) / ageing_s), entry.start_tag, entry.deadline, entry.arrival

        return rank

    def _refuse_cost(self, cost: float, tenant: str, priority: int) -> None:
        if not has_room_for_cost(self._tenants, tenant, cost, open_to(priority, self._limits)):
            most = f"queue.max_cost is {self._limits.max_cost:g}{_half(priority)}"
            raise self._full(f"work of {self.cost:g} waits, this would add {cost:g}, and {most}")

    def _full(self, why: str) -> QueueFull:
        return QueueFull(f"the queue of stage {self._name} is full: {why}", retry_after_s=self.retry_after_s())

    def retry_after_s(self) -> float:
        """When half of what waits will have run, as far as is known: by then there is room for more than one."""
        return max(1.0, self._drain_s(self._outstanding, len(self)) / 2)

    def check_integrity(self) -> None:
        """Raises `RuntimeError` for a broken invariant."""
        self._check_room([entry for entry in self if not entry.was_let_in])
        everything = [pair for line in self._lines() for pair in line.items()]
        if any(entry.deadline < self._none_expires_before for _, entry in everything):
            raise RuntimeError("an entry could expire unnoticed")
        if any(entry_id != entry.id for entry_id, entry in everything):
            raise RuntimeError("an entry is filed under an id that is not its own")
        if self._entries.keys() & self._aside.keys():
            raise RuntimeError("an entry waits and is set aside at the same time")

    def _check_room(self, fresh: Sequence[Entry[W]]) -> None:
        limits, num_others = self._limits, max(0, self.num_tenants - 1)
        most = limits.max_items + num_others * max(1, limits.max_items // 2)
        if len(fresh) > most:
            raise RuntimeError(f"{len(fresh)} entries of {self.num_tenants} tenants wait, more than {most}")
        for tenant in self._tenants:
            own, held = [entry.cost for entry in self if entry.tenant == tenant], self._tenants.of(tenant)
            if len(own) != held.items or not math.isclose(math.fsum(own), held.cost, rel_tol=1e-9, abs_tol=1e-9):
                raise RuntimeError(f"{tenant} has {len(own)} entries of cost {math.fsum(own)} in line, and {held} was counted")
            left = math.fsum(entry.outstanding.amount for entry in self if entry.tenant == tenant)
            if not math.isclose(left, self._outstanding_of[tenant].amount, rel_tol=1e-9, abs_tol=1e-6):
                raise RuntimeError(f"{tenant} has {left} to be done in line, and {self._outstanding_of[tenant]} was counted")
            costs = [entry.cost for entry in fresh if entry.tenant == tenant]
            if len(costs) > limits.max_items:
                raise RuntimeError(f"{len(costs)} entries of {tenant} wait, more than {limits.max_items}")
            if sum(cost > 0 for cost in costs) > 1 and math.fsum(costs) > limits.max_cost * (1 + 1e-9):
                raise RuntimeError(f"work of {math.fsum(costs)} of {tenant} waits, more than {limits.max_cost}")
        ready = sum(entry.ready for entry in self)
        if (self._tenants.items, self._ready.items) != (len(self), ready):
            raise RuntimeError(f"{len(self)} entries wait, {ready} of them ready, and others were counted")
