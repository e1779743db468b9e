"""What two processes want at the same moment is made by one of them, whatever becomes of that one; no process fails for another."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from cache.claims import BeingMade, Claim
from cache.memory import MemoryTier
from cache.tiered import TieredCache
from stages.contract.engine import EngineIdentity
from stages.contract.errors import DeadlineExceeded, StageFailed
from stages.contract.item import Item, Reply
from stages.contract.recipe import Recipe
from stages.host.host import StageHost
from stages.host.remembered.origin import Origin, remembered_as
from tests.cache.shared_tier import SharedTier, Store
from tests.stages.fakes import Add, Adder, Countdown, CountFrom, Total
from tests.stages.host.elsewhere import Elsewhere
from tests.stages.host.hosting import collect, once, total

KEY = remembered_as("n", Origin.of(EngineIdentity("adder", "cpu"), "").key)


class Process:
    """A host with an adder, whose device is open at first, over the shared store."""

    def __init__(self, store: Store) -> None:
        self.adder, self.tier = Adder(), SharedTier(store)
        self.host = StageHost(cache=TieredCache([MemoryTier(2**20), self.tier]))
        self.host.add("adder", self.adder)

    def ask(self, item_id: str = "1", a: int = 2, b: int = 3, in_s: float | None = None) -> "asyncio.Task[Reply[Total]]":
        deadline = float("inf") if in_s is None else time.time() + in_s
        return asyncio.create_task(self.host.call("adder", Item(item_id, Add(a, b), "n", deadline=deadline)))

    async def on_device(self, times: int = 1) -> None:
        await asyncio.to_thread(self.adder.run_gate.wait_for, times)

    def counter(self, name: str) -> float:
        return self.host.metrics()[0].counters[name]


class Scene:
    """Claims run out only where the test moves the store's clock."""

    def __init__(self) -> None:
        self.store = Store()
        self.one, self.two = Process(self.store), Process(self.store)

    @property
    def batches(self) -> list[list[int]]:
        return self.one.adder.batches + self.two.adder.batches

    async def following(self) -> "asyncio.Task[Reply[Total]]":
        """The first process makes it; the second one has found so."""
        self.one.adder.run_gate.close()
        self.leader = self.one.ask()
        await self.one.on_device()
        follower = self.two.ask()
        await asyncio.to_thread(self.two.tier.get_gate.wait_for, 2)
        return follower


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    for process in (scene.one, scene.two):
        process.adder.run_gate.open()
        await process.host.close()


async def test_sixty_four_at_once_in_two_processes_are_made_once(scene: Scene) -> None:
    scene.one.adder.run_gate.close()
    scene.two.adder.run_gate.close()
    calls = [process.ask(f"{n}") for n in range(32) for process in (scene.one, scene.two)]
    await asyncio.to_thread(scene.one.tier.get_gate.wait_for, 1)
    await asyncio.to_thread(scene.two.tier.get_gate.wait_for, 1)
    scene.one.adder.run_gate.open()
    scene.two.adder.run_gate.open()
    replies = await asyncio.gather(*calls)
    assert {total(reply) for reply in replies} == {5}
    assert scene.batches == [[5]]
    assert sorted({reply.receipt.cache for reply in replies}) == ["joined", "miss", "redis"]


async def test_a_follower_is_told_of_in_receipt_and_counters(scene: Scene) -> None:
    follower = await scene.following()
    scene.one.adder.run_gate.open()
    assert (await scene.leader).receipt.cache == "miss"
    assert (await follower).receipt.cache == "redis"
    assert scene.one.counter("cache_waits_total") == 0
    assert scene.two.counter("cache_waits_total") == 1
    assert scene.two.counter("cache_wait_seconds_total") > 0
    assert scene.two.counter("cache_misses_total") == 0


async def test_a_leader_that_goes_away_lets_another_process_make_it(scene: Scene) -> None:
    """The store's clock stands still: no claim runs out."""
    follower = await scene.following()
    scene.leader.cancel()
    assert total(await follower) == 5
    assert scene.two.adder.batches == [[5]]


async def test_a_leader_that_fails_fails_nobody_elsewhere(scene: Scene) -> None:
    follower = await scene.following()
    scene.one.adder.run = lambda batch: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    scene.one.adder.run_gate.open()
    assert total(await follower) == 5
    await asyncio.gather(scene.leader, return_exceptions=True)


async def test_what_fails_everywhere_fails_everyone_with_an_error_of_their_own(scene: Scene) -> None:
    scene.one.adder.run_gate.close()
    calls = [scene.one.ask(a=13), scene.two.ask(a=13)]
    await asyncio.to_thread(scene.two.tier.get_gate.wait_for, 1)
    scene.one.adder.run_gate.open()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StageFailed] * 2


async def test_a_leader_that_died_delays_until_its_claim_has_run_out(scene: Scene) -> None:
    claim = scene.one.tier.get_or_claim(KEY)
    assert isinstance(claim, Claim)
    follower = scene.two.ask()
    await asyncio.to_thread(scene.two.tier.get_gate.wait_for, 3)
    assert scene.batches == []
    scene.store.now += 60
    assert total(await follower) == 5


async def test_what_is_not_kept_is_made_by_each_and_nobody_waits_for_it_twice(scene: Scene) -> None:
    scene.one.tier.keeps = scene.two.tier.keeps = False
    follower = await scene.following()
    scene.one.adder.run_gate.open()
    assert total(await follower) == total(await scene.leader) == 5
    third = Process(scene.store)
    assert total(await third.ask()) == 5
    assert third.counter("cache_waits_total") == 0
    await third.host.close()


async def test_a_follower_ends_at_its_deadline(scene: Scene) -> None:
    scene.two.tier.get_gate.close()
    with pytest.raises(DeadlineExceeded, match="still being looked up"):
        await scene.two.ask(in_s=0.05)
    assert scene.batches == []
    scene.two.tier.get_gate.open()


async def test_a_follower_makes_it_in_time_where_a_claim_stands_for_ever(scene: Scene) -> None:
    scene.store.claims[KEY] = Claim(KEY), float("inf")
    assert total(await scene.two.ask(in_s=2.0)) == 5
    assert scene.two.counter("cache_waits_total") == 1


async def test_a_follower_that_goes_away_neither_makes_it_nor_claims_it(scene: Scene) -> None:
    follower = await scene.following()
    follower.cancel()
    scene.one.adder.run_gate.open()
    await asyncio.gather(follower, return_exceptions=True)
    await scene.leader
    await scene.two.host.settled()
    assert scene.two.adder.batches == []
    assert scene.store.claims == {}


async def test_a_process_that_closes_leaves_no_claim(scene: Scene) -> None:
    scene.one.adder.run_gate.close()
    call = scene.one.ask()
    await scene.one.on_device()
    assert scene.two.tier.get_or_claim(KEY) == BeingMade()
    closing = asyncio.create_task(scene.one.host.close())
    await once(lambda: not scene.store.claims or scene.one.adder.run_gate.timed_out)
    scene.one.adder.run_gate.open()
    await closing
    await asyncio.gather(call, return_exceptions=True)
    assert isinstance(scene.two.tier.get_or_claim(KEY), Claim)


async def test_who_only_asks_another_process_for_a_result_claims_nothing(scene: Scene) -> None:
    """It would wait for itself: whoever makes the result finds it claimed."""
    asking = StageHost(cache=TieredCache([SharedTier(scene.store)]), elsewhere=Elsewhere(scene.one.host))
    asking.add("count", Countdown())
    for name in ("n", "m"):
        item = Item("r", CountFrom(1, plus=(Recipe(name, "adder", Add(1)),)))
        await collect(asking.stream("count", item))
    assert scene.batches == [[1], [1]]
    assert scene.one.counter("cache_waits_total") == 0
    await asking.close()
