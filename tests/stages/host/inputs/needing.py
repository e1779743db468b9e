"""A host that counts, and one elsewhere that adds: what tests of inputs start, and read."""

import asyncio
import time
from collections.abc import Sequence

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from stages.checkpoints.checkpoint import Contents
from stages.contract.item import InputReceipts, Item, StageReceipt, StreamEnd
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.recipe import Recipe
from stages.host.host import StageHost
from tests.stages.fakes import Add, Adder, Countdown, CountFrom, FarTier, Total
from tests.stages.host.elsewhere import Elsewhere
from tests.stages.host.hosting import collect


def plus(n: int, name: str | None = None, param: str | None = None, *inner: Recipe[Total]) -> Recipe[Total]:
    """A recipe of the number n; `Add(13)` is bad luck."""
    return Recipe(name or f"n{n}", "m.adder", Add(n, 0, inner), param)


class Forgetful(dict[str, int]):
    """Forgets everything once it was asked."""

    def __contains__(self, name: object) -> bool:
        known = super().__contains__(name)
        self.clear()
        return known


class Scene:
    """A host that counts, and one elsewhere that adds; they share a far tier."""

    def __init__(self) -> None:
        self.far, self.memory = FarTier(), MemoryTier(2**20)
        self.adder, self.count = Adder(), Countdown(slots=2)
        self.there = StageHost(cache=TieredCache([self.far]), replica="there")
        self.there.add("m.adder", self.adder, contents=Contents("", "w"))
        self.elsewhere = Elsewhere(self.there)
        self.here = StageHost(cache=TieredCache([self.memory, self.far]), replica="here", elsewhere=self.elsewhere)
        self.here.add("m.count", self.count, batch=BatchLimits(2), queue=QueueLimits(3))

    def start(
        self,
        *recipes: Recipe[Total],
        start: int = 1,
        in_s: float | None = None,
        priority: int = 0,
        id: str = "r",
        tenant: str = "t",
    ) -> "asyncio.Task[list[object]]":
        deadline = float("inf") if in_s is None else time.time() + in_s
        item = Item(id, CountFrom(start, plus=recipes), priority=priority, deadline=deadline, tenant=tenant)
        return asyncio.create_task(collect(self.here.stream("m.count", item)))

    async def close(self) -> None:
        self.elsewhere.let_go()
        for gate in (self.far.get_gate, self.far.put_gate, self.adder.run_gate, self.count.gate):
            gate.open()
        await self.here.close()
        await self.there.close()


def inputs(events: Sequence[object]) -> list[StageReceipt]:
    return [receipt for event in events if isinstance(event, InputReceipts) for receipt in event.receipts]


def counted(events: Sequence[object]) -> list[object]:
    """What the stage said."""
    assert isinstance(events[-1], StreamEnd)
    return [event for event in events if isinstance(event, int)]


def outcomes(events: Sequence[object]) -> list[str]:
    return [receipt.cache for receipt in inputs(events)]


def forget_between(scene: Scene) -> None:
    """The stage holds n2 when it is asked what it needs, and no longer when the row starts."""
    scene.count.knows = Forgetful(n2=2)


async def closed(*hosts: StageHost) -> None:
    await asyncio.gather(*(host.close() for host in hosts))
