"""The cache as an event loop asks it: nobody's look-ups wait behind all of another's, and what waits to be remembered is bounded."""

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np

from cache.codec import Arrays
from cache.memory import MemoryTier
from cache.tier import UNLABELLED, Label
from cache.tiered import TieredCache
from stages.contract.engine import EngineIdentity
from stages.contract.item import Item
from stages.host.host import StageHost
from stages.host.remembered.cache_threads import MAX_WRITING_BYTES, READERS, CacheThreads
from stages.host.remembered.origin import Origin, remembered_as
from tests.stages.fakes import Add, Adder, FarTier


class _Noting(FarTier):
    """Which keys it was asked for, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.given: list[str] = []

    def get_many(self, keys: Sequence[str], label: Label = UNLABELLED) -> dict[str, Arrays]:
        self.asked += keys
        return super().get_many(keys, label)

    def put_many(self, values: Mapping[str, Arrays], label: Label = UNLABELLED) -> None:
        self.given += values
        super().put_many(values, label)


async def test_a_tenants_look_ups_do_not_wait_behind_all_of_anothers() -> None:
    far = _Noting()
    host = StageHost(cache=TieredCache([far]))
    host.add("adder", Adder())
    far.get_gate.close()

    def ask(name: str, tenant: str) -> "asyncio.Task[object]":
        return asyncio.create_task(host.call("adder", Item(name, Add(1, 2), name, tenant=tenant)))

    crowd = [ask(f"crowd{number}", "crowd") for number in range(3 * READERS)]
    await asyncio.to_thread(far.get_gate.wait_for, READERS)
    single = ask("single", "single")
    await asyncio.sleep(0.05)  # it is in line
    far.get_gate.let(READERS)
    await asyncio.to_thread(far.get_gate.wait_for, 2 * READERS)
    asked = far.asked[: 2 * READERS]
    far.get_gate.open()
    await asyncio.gather(*crowd, single)
    await host.close()
    origin = Origin.of(EngineIdentity("adder", "cpu"), "")
    assert remembered_as("single", origin.key) in asked


async def test_where_no_thread_is_free_in_time_nothing_is_found() -> None:
    far = _Noting()
    MemoryTier.put_many(far, {"k": {"x": np.zeros(1)}})
    threads = CacheThreads(TieredCache([far]), turn_within_s=0.01)
    far.get_gate.close()
    begun = [asyncio.create_task(threads.get_many(["k"])) for _ in range(READERS)]
    await asyncio.to_thread(far.get_gate.wait_for, READERS)
    assert await threads.get_many(["k"]) == {}
    assert await threads.get_or_claim("k") is None
    far.get_gate.open()
    assert all("k" in found for found in await asyncio.gather(*begun))
    assert "k" in await threads.get_many(["k"])
    await threads.close()


async def test_what_waits_to_be_remembered_is_bounded_by_its_bytes() -> None:
    far = _Noting()
    threads = CacheThreads(TieredCache([far]))
    far.put_gate.close()
    value = {"x": np.zeros(MAX_WRITING_BYTES // 4, np.uint8)}
    value["x"].flags.writeable = False

    puts = [asyncio.create_task(threads.put(f"k{number}", value, in_memory_only=False)) for number in range(6)]
    _, waiting = await asyncio.wait(puts, timeout=0.1)
    assert len(waiting) == 4
    far.put_gate.open()
    await asyncio.gather(*puts)
    await threads.put("k6", value, in_memory_only=False)
    assert far.given == ["k0", "k1", "k2", "k3", "k6"]
    await threads.close()
