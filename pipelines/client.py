"""How a pipeline calls a stage: the same verbs in one process and over a cluster.

Knows no HTTP and no model. The one-process form is `LocalStageClient`; the cluster's is `pipelines/cluster/serve_client.py`.
"""

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from stages.contract.item import DEFAULT_TENANT, Item, Reply
from stages.contract.news import NO_HINTS, Hints
from stages.contract.work import Work
from stages.host.host import StageHost


@dataclass(frozen=True, slots=True)
class Visit:
    """One stage that a request is about to visit, and about how much it asks of it. `name`: a hint of the result's."""

    stage: str
    work: Work | None
    hints: Hints = NO_HINTS
    name: int | None = None


@dataclass(frozen=True, slots=True)
class Rest:
    """What whoever takes over a stream is to do, and about how much it is: the same payload, where its events may come again from the
    start, or one that goes on behind what was told."""

    payload: Any
    work: Work | None


Again: TypeAlias = Callable[[], Rest | None]
"""Asked when a replica has ended in the middle of a stream. None: nobody can take over."""


class StageClient(Protocol):
    def admit(
        self,
        visits: Sequence[Visit],
        *,
        deadline: float,
        priority: int = 0,
        tenant: str = DEFAULT_TENANT,
        asked: str = "",
    ) -> None:
        """To be asked before anything is started for a request that visits these stages, one after the other. Raises `QueueFull` where it
        is not to be expected to end before its deadline (wall clock) because of what is to be done before it. `asked`: tells the same
        request of a tenant when it comes again, after the time that it was told; empty: nothing does."""
        ...

    def forecast(self, visits: Sequence[Visit], *, priority: int = 0, tenant: str = DEFAULT_TENANT) -> float | None:
        """In how many seconds a request that visits these stages, one after the other, is expected to end; None: nobody knows yet."""
        ...

    async def call(self, stage: str, item: Item[Any], *, lost: set[str] | None = None) -> Reply[Any]:
        """Runs a one-shot stage. Cancelling the task withdraws the request. `lost`: the replicas that have ended with a piece of
        the same request in hand, where there are several; added to."""
        ...

    def stream(
        self, stage: str, item: Item[Any], *, again: Again | None = None, lost: set[str] | None = None
    ) -> AsyncGenerator[Sequence[object], None]:
        """Runs an iterative stage and yields its events as they come, several at a time; the last is a `StreamEnd`.

        Closing the iterator stops the work. Where its replica ends before it has told anything, the item is run elsewhere; after
        that, a `ReplicaEnded` is told, and what `again` says is done elsewhere; where nobody can take over, what became of the replica is
        raised. `lost` as for `call`.
        """
        ...


class LocalStageClient:
    """Stages in this very process."""

    def __init__(self, host: StageHost) -> None:
        self._host = host

    def admit(
        self,
        visits: Sequence[Visit],
        *,
        deadline: float,
        priority: int = 0,
        tenant: str = DEFAULT_TENANT,
        asked: str = "",
    ) -> None:
        """Stages' own lines are bounded, and this process has nobody to send anything elsewhere."""

    def forecast(self, visits: Sequence[Visit], *, priority: int = 0, tenant: str = DEFAULT_TENANT) -> float | None:
        return None

    async def call(self, stage: str, item: Item[Any], *, lost: set[str] | None = None) -> Reply[Any]:
        return await self._host.call(stage, item)

    def stream(
        self, stage: str, item: Item[Any], *, again: Again | None = None, lost: set[str] | None = None
    ) -> AsyncGenerator[Sequence[object], None]:
        return self._host.stream(stage, item)


class SplitStageClient:
    """The stages named `near` in one place, all others in another."""

    def __init__(self, near: Collection[str], here: StageClient, there: StageClient) -> None:
        self._near, self._here, self._there = frozenset(near), here, there

    def admit(
        self,
        visits: Sequence[Visit],
        *,
        deadline: float,
        priority: int = 0,
        tenant: str = DEFAULT_TENANT,
        asked: str = "",
    ) -> None:
        self._there.admit(self._far(visits), deadline=deadline, priority=priority, tenant=tenant, asked=asked)

    def forecast(self, visits: Sequence[Visit], *, priority: int = 0, tenant: str = DEFAULT_TENANT) -> float | None:
        """Of what is elsewhere."""
        return self._there.forecast(self._far(visits), priority=priority, tenant=tenant)

    async def call(self, stage: str, item: Item[Any], *, lost: set[str] | None = None) -> Reply[Any]:
        return await self._of(stage).call(stage, item, lost=lost)

    def stream(
        self, stage: str, item: Item[Any], *, again: Again | None = None, lost: set[str] | None = None
    ) -> AsyncGenerator[Sequence[object], None]:
        return self._of(stage).stream(stage, item, again=again, lost=lost)

    def _far(self, visits: Sequence[Visit]) -> Sequence[Visit]:
        return [visit for visit in visits if visit.stage not in self._near]

    def _of(self, stage: str) -> StageClient:
        return self._here if stage in self._near else self._there
