"""The seam between a host and whatever runs a stage's work: our own engines, or one that schedules itself.

Decides what a host may ask of an engine, and how an engine answers. Nothing above it knows which engine it is.
"""

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from stages.contract.cost import Part, Speed, Turns
from stages.contract.errors import DeadlineExceeded, TriptychError
from stages.contract.histogram import HistogramCounts
from stages.contract.item import DEFAULT_TENANT, Item, StageReceipt, tenant_hint
from stages.contract.limits import QueueLimits
from stages.contract.pages import Paging
from stages.contract.recipe import NO_INPUTS, Inputs, Payload, Recipe
from stages.contract.result import Result
from stages.contract.work import NO_WORK, Work

MAX_TENANTS = 8
"""That whoever routes is told of: of a line that more share, the others' work counts as if it went before everybody's."""
P_contra = TypeVar("P_contra", bound=Payload, contravariant=True)


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """Who an engine is, for receipts and messages. `model`: of its device ("NVIDIA L4"); "": as `device` says."""

    stage: str
    device: str
    replica: str = "local"
    dtype: str = "float32"
    model: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """`queued` items are ready, or being prepared. `seconds_ahead`: how long the device will be busy with what it has, as far as is
    known (0.0 while unknown). `outstanding`: what is left to do of all of them, `later` of those `num_later` that a newcomer of priority 0
    goes before; `tenants`: what of it is whose, and of how many items (nothing where nobody tells tenants apart); `speed`: how fast that is
    done (None: unknown). Since the engine started, `num_arrived` items were taken in, `arrived` in all as they were foreseen, and
    `num_left` have left, done or not."""

    queued: int
    running: int
    seconds_ahead: float
    outstanding: Work = NO_WORK
    speed: Speed | None = None
    arrived: Work = NO_WORK
    num_arrived: int = 0
    num_left: int = 0
    later: Work = NO_WORK
    num_later: int = 0
    tenants: Mapping[str, Part] = field(default_factory=dict)

    @property
    def num_items(self) -> int:
        return self.queued + self.running

    def finish_s(self, work: Work, priority: int = 0, tenant: str = DEFAULT_TENANT) -> float | None:
        """Seconds until a newcomer would be done. None while nobody knows."""
        speed, is_urgent = self.speed, priority <= 0
        if speed is None:
            return None
        if self.tenants:
            turns = Turns(self.outstanding, self.num_items, self.tenants)
            return speed.finish_s(work, *turns.before(tenant, work.amount, speed.company, is_urgent=is_urgent))
        if is_urgent:
            return speed.finish_s(work, self.outstanding - self.later, self.num_items - self.num_later)
        return speed.finish_s(work, self.outstanding, self.num_items)

    def has_more_than_its_part(self, tenant: str) -> bool:
        """Of several tenants: more than an equal part of what is outstanding. Others' items to come will go before some of it."""
        own = self.tenants.get(tenant)
        return own is not None and own.outstanding.amount * len(self.tenants) > self.outstanding.amount * (1 + 1e-9)

    def told_tenants(self) -> Mapping[int, Part]:
        """Of the `MAX_TENANTS` who have most, for whoever routes."""
        if not self.tenants:
            return {}
        most = heapq.nlargest(MAX_TENANTS, self.tenants.items(), key=lambda pair: pair[1].outstanding.amount)
        return {tenant_hint(tenant): part for tenant, part in most}


class Receiver(Protocol):
    """What becomes of one submitted item: any number of `events`, then exactly one of `done` and `failed`. Must not block."""

    def events(self, events: Sequence[object]) -> None:
        """An iterative stage's events, in order."""
        ...

    def missing(self, recipes: Sequence[Recipe[Any]]) -> None:
        """It can't go on without these results after all: `Handle.supply` is waited for, and takes no place meanwhile. The second
        time these are all that it lacks; a third time it fails."""
        ...

    def done(self, value: Result | None, receipt: StageReceipt) -> None:
        """`value` is None for an iterative stage."""
        ...

    def failed(self, error: TriptychError) -> None: ...


class Handle(Protocol):
    """One submitted item, for whoever submitted it. Any thread."""

    def supply(self, inputs: Inputs) -> None:
        """The results that were missing."""
        ...

    def fail(self, error: TriptychError) -> None:
        """What was missing can't be had: its receiver gets the error unless it has its answer."""
        ...

    def cancel(self) -> None:
        """Its receiver gets `Cancelled` (`DeadlineExceeded` past its deadline) unless it has its answer. Idempotent."""
        ...

    def expire(self) -> None:
        """Its receiver gets `DeadlineExceeded` unless it has its answer."""
        ...

    def amend(self, priority: int, deadline: float) -> bool:
        """Someone else wants its result too, by `deadline` (wall clock): the more urgent priority and the later deadline count
        from now on, whether it waits or runs. False: it has failed already."""
        ...

    def too_late(self) -> DeadlineExceeded:
        """Says where the time went."""
        ...


class Engine(Protocol[P_contra]):
    """Runs one stage's items, in an order of its own. Every method may be called on any thread, and none waits for the device."""

    @property
    def identity(self) -> EngineIdentity: ...

    @property
    def result_type(self) -> type[Result] | None:
        """What it makes of an item; None where an item's answer is a stream of events."""
        ...

    @property
    def paging(self) -> Paging[P_contra] | None:
        """How its items begin where others left off; None where none does."""
        ...

    def needs(self, payload: P_contra, tenant: str = DEFAULT_TENANT, inputs: Inputs = NO_INPUTS) -> Sequence[Recipe[Any]]:
        """Of what the payload needs, what must be at hand when it is submitted with these `inputs`. Where that is anything, raises
        what `submit` would raise now (but for the deadline), before it is made in vain; `submit` has the last word."""
        ...

    def submit(self, item: Item[P_contra], inputs: Inputs, receiver: Receiver) -> Handle:
        """Takes the item in. Raises `QueueFull`, `Unavailable` (closed, broken), `DeadlineExceeded` (too late), `InvalidRequest`."""
        ...

    def limit_queue(self, limits: QueueLimits) -> None:
        """Judges what comes from now on by these bounds."""
        ...

    def load(self) -> Load: ...

    def residency(self) -> Collection[str]:
        """Names of results that it holds in a form that spares it being given them."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """Counters, as `StageMetrics` lists them."""
        ...

    @property
    def is_broken(self) -> bool: ...

    def check(self) -> None:
        """Raises `Unavailable` where it will do no more work."""
        ...

    def close(self, timeout_s: float | None = None) -> None:
        """Whatever is unfinished fails with `Unavailable`, at once; then waits for what runs (None: as long as that may take, but
        not for what never ends). Idempotent."""
        ...


@runtime_checkable
class Measuring(Protocol):
    """What an engine may be, too: one that tells how its times and batches spread."""

    def histograms(self) -> Mapping[str, HistogramCounts]:
        """As `StageMetrics` lists them."""
        ...
