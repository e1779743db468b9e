"""Kept work without a cluster: stores that several processes share, and workers that wait for a test's word."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cache.store import MemoryStore
from pipelines.ingress.kept.kept_values import KeptValues, Kind, Owner
from pipelines.ingress.kept.leases import Leases
from pipelines.ingress.kept.work import KeptWork, Task, WorkKinds
from pipelines.ingress.kept.work_state import JsonObject
from pipelines.ingress.tenants.auth import Caller
from stages.concurrency.thread_pool import ThreadPool

ADA, BOB = Caller("ada", "salt of ada"), Caller("bob", "salt of bob")
OWNERS: dict[str, Owner] = {owner.tenant: owner for owner in (ADA, BOB)}
KINDS = WorkKinds(
    Kind("given", "requests", 60, 10_000, 100), Kind("work", "jobs", 60, 100_000, 10, setting="ingress.kept.jobs")
)


class Clock:
    """The test's to move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class SharedStore(MemoryStore):
    """As several processes see it."""

    is_shared = True


@dataclass(slots=True)
class FakeWorker:
    """Does nothing until `open` is set, and says what it was given. `fails`: what it raises, one after the other, before that.
    `owners`: whom it knows, by their tenants; `sought`: of which tenants it was asked who they are; `reports`: how each
    that began tells how far it is."""

    fails: list[Exception] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    began: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    owners: Mapping[str, Owner] = field(default_factory=lambda: OWNERS)
    sought: list[str] = field(default_factory=list)
    forgot: list[str] = field(default_factory=list)
    reports: list[Callable[[JsonObject], None]] = field(default_factory=list)

    async def run(self, task: Task, report: Callable[[JsonObject], None]) -> JsonObject:
        self.began.append(task.id)
        self.reports.append(report)
        try:
            report({"step": 1})
            if self.fails:
                raise self.fails.pop(0)
            await self.open.wait()
            return {"said": task.given.decode()}
        finally:
            self.ended.append(task.id)

    async def forget(self, id: str, owner: Owner) -> None:
        self.forgot.append(id)

    def told_error(self, task_id: str, error: Exception) -> JsonObject:
        return {"message": str(error)}

    def owner_of(self, tenant: str) -> Owner | None:
        self.sought.append(tenant)
        return self.owners.get(tenant)


def values_in(store: MemoryStore) -> KeptValues:
    return KeptValues(store, ThreadPool("reading what is kept", threads=2, max_waiting=100))


def process(store: MemoryStore, clock: Clock, worker: FakeWorker, *, max_running: int = 2, renew_s: float = 0.0) -> KeptWork:
    """What one HTTP process does of it."""
    values = values_in(store)
    work = KeptWork("test", values, leases=Leases("test", values, lease_s=15), renew_s=renew_s, round_s=0.005, now=clock)
    work.kinds, work.worker, work.max_running = KINDS, worker, max_running
    return work
