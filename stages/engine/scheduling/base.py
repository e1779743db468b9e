"""What both forms of scheduling share (`scheduler.py`): a bounded waiting line, an account of what runs and of whose it is, and what is
left to do of it all, at which speed. Pure.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from stages.contract.cost import Part
from stages.contract.engine import Load
from stages.contract.item import DEFAULT_TENANT
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.work import NO_WORK, Work
from stages.engine.scheduling.fairness import Sized, VirtualCounters
from stages.engine.scheduling.learned_speed import LearnedSpeed
from stages.engine.scheduling.memory_bound import MemoryBound
from stages.engine.scheduling.waiting import Entry, WaitingLine

W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class Batch(Generic[W]):
    """What to run now (all of one batch key; may be empty), and what expired instead of running. `cost` is of all that runs."""

    entries: Sequence[Entry[W]] = ()
    expired: Sequence[Entry[W]] = ()
    cost: float = 0.0


class _Chosen(Protocol):
    """What takes part in a batch or a step."""

    @property
    def tenant(self) -> str: ...

    @property
    def cost(self) -> float: ...


class Scheduler(ABC, Generic[W]):
    """What both forms share: a bounded waiting line, and an account of what runs. `speed` learns from what is completed."""

    def __init__(
        self, batch: BatchLimits, queue: QueueLimits, speed: LearnedSpeed, *, name: str = "stage", ageing_s: float = 2.0
    ) -> None:
        self._limits = batch
        self.bound = MemoryBound(batch)
        self.speed = speed
        self.waiting: WaitingLine[W] = WaitingLine(name, queue, ageing_s, self._drain_s)
        self.num_yielded = 0
        """How many rows made way for another tenant's."""
        self._counters = VirtualCounters()
        self._used: dict[str, float] = {}  # by what is on the device: whose work, and its cost

    @abstractmethod
    def running(self) -> Sequence[Entry[W]]: ...

    @abstractmethod
    def is_running(self, entry_id: str) -> bool: ...

    @abstractmethod
    def has_work(self) -> bool:
        """Whether there is anything to run, or to start."""

    @abstractmethod
    def next_batch(self, now: float) -> Batch[W]:
        """To be called when the device is free. What it returns is running until `complete`."""

    @abstractmethod
    def cancel(self, entry_id: str) -> Entry[W] | None:
        """Removes it, if that can still be done; None: it is not here, or its one run has begun. At any moment."""

    @abstractmethod
    def clear(self) -> list[Entry[W]]:
        """Removes everything, and returns it."""

    def add(self, entry: Entry[W]) -> None:
        """Raises `QueueFull`; `ValueError` for an id that is already here."""
        if self.is_running(entry.id):
            raise ValueError(f"{entry.id} is already running")
        self.waiting.add(entry)

    def amend(self, entry_id: str, priority: int, deadline: float) -> None:
        """Someone else wants the same result: the more urgent priority and the later deadline count, waiting or running."""
        self.waiting.amend(entry_id, priority, deadline)

    def _use(self, chosen: Sequence[_Chosen]) -> None:
        self._used = {}
        for one in chosen:
            self._used[one.tenant] = self._used.get(one.tenant, 0.0) + one.cost

    def _charge(self, seconds: float) -> None:
        """What was on the device kept it busy for so long, also for whoever has left meanwhile."""
        if self._used:
            self._counters.charge(self._used, seconds)
        self._used = {}

    def load(self, now: float | None = None) -> Load:
        """`now` None: what runs is taken to be half done, where it matters, and nothing that waits has aged."""
        queued, running, speed = len(self.waiting), len(self.running()), self.speed.of(self.bound.limits)
        of_running = self._left_of_running(now)
        amount, steps = sum(left.amount for _, left in of_running), sum(left.steps for _, left in of_running)
        outstanding = self.waiting.outstanding + Work(amount, steps)
        ahead_s = 0.0 if speed is None else speed.drain_s(outstanding, queued + running)
        later = self.waiting.left_for_later(now)
        all_later, num_later = sum((work for work, _ in later.values()), NO_WORK), sum(num for _, num in later.values())
        tenants = self._by_tenant(of_running, later)
        return Load(queued, running, ahead_s, outstanding, speed, later=all_later, num_later=num_later, tenants=tenants)

    @abstractmethod
    def _left_of_running(self, now: float | None) -> Sequence[tuple[str, Work]]:
        """Of each, and whose it is."""

    def _by_tenant(self, of_running: Sequence[tuple[str, Work]], later: Mapping[str, tuple[Work, int]]) -> Mapping[str, Part]:
        found = dict(self.waiting.left_of_tenants())
        if found.keys() <= {DEFAULT_TENANT} and all(tenant == DEFAULT_TENANT for tenant, _ in of_running):
            return {}
        for tenant, left in of_running:
            so_far, num_items = found.get(tenant, (NO_WORK, 0))
            found[tenant] = so_far + left, num_items + 1
        return {tenant: Part(left, num, *later.get(tenant, (NO_WORK, 0))) for tenant, (left, num) in found.items()}

    def _drain_s(self, outstanding: Work, num_items: int) -> float:
        speed = self.speed.of(self.bound.limits)
        return 0.0 if speed is None else speed.drain_s(outstanding, num_items)

    def check_integrity(self) -> None:
        """Raises `RuntimeError` for a broken invariant."""
        self.waiting.check_integrity()
        if any(entry.id in self.waiting for entry in self.running()):
            raise RuntimeError("an entry waits and runs at the same time")


def check_batch(batch: Sequence[Sized], limits: BatchLimits) -> None:
    if len(batch) > limits.max_items:
        raise RuntimeError(f"{len(batch)} items run together, more than {limits.max_items}")
    if len({item.batch_key for item in batch}) > 1:
        raise RuntimeError("items of different keys run together")
    if len(batch) > 1 and sum(item.cost for item in batch) > limits.max_cost * (1 + 1e-9):
        raise RuntimeError(f"work of {sum(item.cost for item in batch)} runs together, more than {limits.max_cost}")
