"""A tier that Triptych doesn't ship (`tests/cache/folder_tier.py`), opened where tiers are opened: a replica remembers results and pages in
it, finds them again in another process's stead, and counters and receipts tell of it by its name."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from pipelines.cluster.replica import StageReplica
from pipelines.ingress.schemas.receipt import StageEntry
from pipelines.settings.serve.replica_spec import CacheSpec, ReplicaSpec
from stages.checkpoints.checkpoint import Contents
from stages.contract.item import Item, Reply
from tests.cache.folder_tier import FolderTier
from tests.stages.fakes import Add, Adder, Total
from tests.stages.host.hosting import collect, once
from tests.stages.host.pages.spelling import TEXT, Spelled
from tests.stages.paged import Spell, Speller


@dataclass(frozen=True, slots=True)
class WithFolder(CacheSpec):
    """What `CacheSpec.open` would do for it."""

    folder: Path = Path()

    def open(self) -> TieredCache:
        return TieredCache([MemoryTier(self.memory_bytes), FolderTier(self.folder)])


class Replica(StageReplica):
    def __init__(self, folder: Path) -> None:
        results, pages = WithFolder(2**20, folder=folder), WithFolder(0, folder=folder)
        super().__init__(ReplicaSpec("encoder", (), results, torch_threads=1, pages=pages))
        self.adder = Adder()
        self.host.add("m.adder", self.adder, contents=Contents("", "w"))
        self.host.add("m.spell", Speller(), contents=Contents("", "w"))

    async def add(self, salt: str = "") -> Reply[Total]:
        return await self.host.call("m.adder", Item("r", Add(2, 3), "five", salt=salt))

    async def spell(self, text: str) -> Spelled:
        return Spelled(await collect(self.host.stream("m.spell", Item("r", Spell(text)))))

    def count(self, name: str) -> float:
        return sum(stage.counters.get(name, 0) for stage in self.host.metrics())


def damage(folder: Path) -> None:
    for path in folder.glob("*.value"):
        path.write_bytes(path.read_bytes()[:-1] + b"\0\0")


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[[], Replica]]:
    started: list[Replica] = []

    def begin() -> Replica:
        started.append(Replica(tmp_path))
        return started[-1]

    yield begin
    await asyncio.gather(*(replica.close() for replica in started))


async def test_a_result_outlives_its_replica_and_the_receipt_says_where_it_was(start: Callable[[], Replica]) -> None:
    first, second = start(), start()
    assert (await first.add()).receipt.cache == "miss"
    await first.host.settled()
    reply = await second.add()
    assert (int(reply.value.total), reply.receipt.cache) == (5, "folder")
    assert second.adder.batches == []
    assert reply.receipt.bytes_moved > 0
    assert (await second.add()).receipt.cache == "memory"  # remembered above
    assert (second.count("cache_hits_folder_total"), second.count("cache_hits_memory_total")) == (1, 1)
    assert (
        StageEntry.model_validate(
            {"stage": "m.adder", "device": "cpu", "dtype": "float32", "queue_s": 0, "run_s": 0, "device_s": 0}
            | {"steps": 0, "ended_s": 0, "cache": reply.receipt.cache}
        ).cache
        == "folder"
    )


async def test_another_tenant_finds_nothing_in_it(start: Callable[[], Replica]) -> None:
    first, second = start(), start()
    await first.add("ada")
    await first.host.settled()
    assert (await second.add("bob")).receipt.cache == "miss"


async def test_a_row_goes_on_from_its_pages(start: Callable[[], Replica]) -> None:
    first, second = start(), start()
    assert (await first.spell(TEXT)).outcome == (0, "miss", 0)
    await once(lambda: first.count("pages_exported_total") >= 4)
    await first.host.settled()
    found = await second.spell(TEXT + "ij")
    assert (found.outcome, found.text) == ((8, "folder", 8), TEXT + "ij")
    assert second.count("page_hits_folder_total") == 4


async def test_what_is_damaged_in_it_is_made_again_and_counted(start: Callable[[], Replica], tmp_path: Path) -> None:
    first, second = start(), start()
    await first.add()
    await first.host.settled()
    damage(tmp_path)
    assert (await second.add()).receipt.cache == "miss"
    second.count("cache_corrupt_total")  # asks the tier aside
    await once(lambda: second.count("cache_corrupt_total") == 1)
