"""Hosts that spell with pages, over a far tier that tests can hold up."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cache.codec import Arrays
from cache.memory import MemoryTier
from cache.tier import UNLABELLED, Label
from cache.tiered import TieredCache
from stages.checkpoints.checkpoint import Contents
from stages.contract.engine import EngineIdentity
from stages.contract.item import InputReceipts, Item, StageReceipt, StreamEnd
from stages.contract.limits import QueueLimits
from stages.host.host import StageHost
from stages.host.remembered.origin import Origin, remembered_as
from tests.stages.fakes import Adder, FarTier, Gate
from tests.stages.host.hosting import collect
from tests.stages.paged import Letters, Spell, Speller

TEXT = "abcdefgh"
ORIGIN = Origin.of(EngineIdentity("m.spell", "cpu"), "w").key


class Far(FarTier):
    """Says where things are through a gate of its own, and notes what it is asked for and given, and under which label."""

    def __init__(self) -> None:
        super().__init__()
        self.where_gate = Gate()
        self.asked: list[tuple[str, ...]] = []
        self.labels: set[Label] = set()
        self.lies = False  # says that it has what it hasn't

    def holds(self, keys: Sequence[str]) -> set[str]:
        self.where_gate.pass_through()
        return set(keys) if self.lies else super().holds(keys)

    def get_many(self, keys: Sequence[str], label: Label = UNLABELLED) -> dict[str, Arrays]:
        self.asked.append(tuple(keys))
        self.labels.add(label)
        return super().get_many(keys, label)

    def put_many(self, values: Mapping[str, Arrays], label: Label = UNLABELLED) -> None:
        self.labels.add(label)
        super().put_many(values, label)

    def delete(self, keys: Sequence[str]) -> None:
        self.put_gate.pass_through()
        super().delete(keys)


class Scene:
    """Two hosts of the same stage that share a far tier: what one has spelled the other finds. `far` may be left out."""

    def __init__(self, *, queue: int = 256, memory_bytes: int = 2**20) -> None:
        self.far, self.memory = Far(), MemoryTier(memory_bytes)
        self.speller, self.adder = Speller(), Adder()
        self.host = StageHost(pages=TieredCache([self.memory, self.far]), replica="r")
        self.host.add("m.adder", self.adder)
        self.host.add("m.spell", self.speller, queue=QueueLimits(queue), contents=Contents("", "w"))

    def put(self, *texts: str, salt: str = "", tier: MemoryTier | None = None) -> None:
        """As pages far away, or in `tier`."""
        for text in texts:
            key = remembered_as(f"{salt}:{text}", ORIGIN)
            MemoryTier.put_many(tier or self.far, {key: Letters.of_text(text[-2:]).arrays()})

    def spell(self, text: str = TEXT, *, in_s: float | None = None, salt: str = "", **item: Any) -> "asyncio.Task[Spelled]":
        deadline = float("inf") if in_s is None else time.time() + in_s
        payload = Spell(text, salt, item.pop("plus", ()))
        return asyncio.create_task(self._spell(Item("r", payload, deadline=deadline, salt=salt, **item)))

    async def _spell(self, item: Item[Any]) -> "Spelled":
        return Spelled(await collect(self.host.stream("m.spell", item)))

    def count(self, name: str) -> float:
        return next(stage.counters[name] for stage in self.host.metrics() if stage.stage == "m.spell")

    async def close(self) -> None:
        for gate in (
            self.far.get_gate,
            self.far.put_gate,
            self.far.where_gate,
            self.speller.gate,
            self.speller.export_gate,
            self.adder.run_gate,
        ):
            gate.open()
        await self.host.close()


class Spelled:
    """An answer: how many letters were known, what was spelled, and the stage's receipt."""

    def __init__(self, events: Sequence[object]) -> None:
        self.num_known, self.text = next(event for event in events if isinstance(event, tuple))
        self.inputs = [receipt for event in events if isinstance(event, InputReceipts) for receipt in event.receipts]
        assert isinstance(events[-1], StreamEnd)
        self.receipt: StageReceipt = events[-1].receipt

    @property
    def outcome(self) -> tuple[int, str, int]:
        return self.num_known, self.receipt.cache, self.receipt.bytes_moved
