"""Named results: looked up, joined, or computed once and remembered; and who may take whom along."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from cache.memory import MemoryTier
from cache.redis.embedded import EmbeddedRedis
from cache.redis.redis_tier import RedisTier
from cache.tiered import TieredCache
from stages.checkpoints.checkpoint import Contents
from stages.contract.engine import EngineIdentity
from stages.contract.errors import DeadlineExceeded, InvalidRequest, QueueFull, StageFailed
from stages.contract.item import Item, Reply
from stages.contract.limits import QueueLimits
from stages.host.host import StageHost
from stages.host.remembered.origin import Origin, remembered_as
from tests.stages.fakes import Add, Adder, Divider, FarTier, Gate, Total
from tests.stages.host.hosting import once, total

HERE = remembered_as("n", Origin.of(EngineIdentity("adder", "cpu"), "").key)
"""What "n" is called in the tiers."""


class Scene:
    """A host with one adder, a memory tier, and a far tier below it. The adder's device is open at first."""

    def __init__(self) -> None:
        self.adder, self.memory, self.far = Adder(), MemoryTier(2**20), FarTier()
        self.host = StageHost(cache=TieredCache([self.memory, self.far]), replica="r1")
        self.host.add("adder", self.adder, queue=QueueLimits(max_items=4))

    def ask(
        self, item_id: str = "1", a: int = 2, b: int = 3, name: str | None = "n", in_s: float | None = None
    ) -> "asyncio.Task[Reply[Total]]":
        deadline = float("inf") if in_s is None else time.time() + in_s
        return asyncio.create_task(self.host.call("adder", Item(item_id, Add(a, b), name, deadline=deadline)))

    async def on_device(self, times: int) -> None:
        await asyncio.to_thread(self.adder.run_gate.wait_for, times)

    def counter(self, name: str) -> float:
        return self.host.metrics()[0].counters[name]

    def open(self) -> None:
        for gate in (self.adder.run_gate, self.adder.prepare_gate, self.far.get_gate, self.far.put_gate):
            gate.open()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    scene.open()
    await scene.host.close()


async def test_a_miss_is_computed_and_remembered_in_every_tier(scene: Scene) -> None:
    reply = await scene.ask()
    assert total(reply) == 5
    assert (reply.receipt.cache, reply.receipt.bytes_moved) == ("miss", 8)
    await scene.host.settled()
    assert list(scene.memory.get_many([HERE])) == list(scene.far.get_many([HERE])) == [HERE]


async def test_what_is_in_memory_is_not_computed_again(scene: Scene) -> None:
    await scene.ask()
    await scene.host.settled()
    reply = await scene.ask()
    assert total(reply) == 5
    assert (reply.receipt.cache, reply.receipt.bytes_moved, reply.receipt.device_s) == ("memory", 0, 0)
    assert scene.adder.batches == [[5]]


async def test_what_another_replica_has_computed_comes_from_the_far_tier(scene: Scene) -> None:
    scene.far.put_many({HERE: {"total": np.asarray(5)}})
    reply = await scene.ask()
    assert total(reply) == 5
    assert (reply.receipt.cache, reply.receipt.bytes_moved) == ("redis", 8)
    assert scene.adder.batches == []
    assert (await scene.ask()).receipt.cache == "memory"


async def test_without_a_name_nothing_is_looked_up_or_remembered(scene: Scene) -> None:
    scene.far.get_gate.close()
    first, second = await asyncio.gather(scene.ask("1", name=None), scene.ask("2", name=None))
    assert first.receipt.cache == second.receipt.cache == "off"
    assert sum(len(batch) for batch in scene.adder.batches) == 2
    assert scene.memory.stats().entries == 0


async def test_without_tiers_requests_still_join_but_nothing_is_remembered() -> None:
    host, adder = StageHost(), Adder(run_gate=Gate(closed=True))
    host.add("adder", adder)
    calls = [asyncio.create_task(host.call("adder", Item(str(i), Add(2, 3), "n"))) for i in range(2)]
    await asyncio.to_thread(adder.run_gate.wait_for, 1)
    adder.run_gate.open()
    replies = await asyncio.gather(*calls)
    assert [reply.receipt.cache for reply in replies] == ["off", "joined"]
    assert (await host.call("adder", Item("3", Add(2, 3), "n"))).receipt.cache == "off"
    assert adder.batches == [[5], [5]]
    await host.close()


async def test_the_event_loop_turns_while_a_far_tier_is_asked(scene: Scene) -> None:
    scene.far.get_gate.close()
    call = scene.ask()
    await asyncio.to_thread(scene.far.get_gate.wait_for, 1)
    assert not call.done()
    scene.far.get_gate.open()
    assert total(await call) == 5


@pytest.mark.parametrize("phase", ["looking up", "preparing", "running", "remembering"])
async def test_whoever_comes_in_any_phase_of_a_computation_joins_it(scene: Scene, phase: str) -> None:
    gate = {
        "looking up": scene.far.get_gate,
        "preparing": scene.adder.prepare_gate,
        "running": scene.adder.run_gate,
        "remembering": scene.far.put_gate,
    }[phase]
    gate.close()
    leader = scene.ask("1")
    await asyncio.to_thread(gate.wait_for, 1)
    followers = [scene.ask(f"{i}") for i in range(2, 5)]
    if phase == "remembering":
        assert [total(await follower) for follower in followers] == [5, 5, 5]  # nobody waits for the remembering
    else:
        await asyncio.sleep(0)
    gate.open()
    replies = await asyncio.gather(leader, *followers)
    assert [total(reply) for reply in replies] == [5] * 4
    assert [reply.receipt.cache for reply in replies] == ["miss", "joined", "joined", "joined"]
    assert sum(reply.receipt.device_s for reply in replies) == replies[0].receipt.device_s  # nothing is counted twice
    assert scene.adder.batches == [[5]]
    assert (scene.counter("cache_misses_total"), scene.counter("cache_joined_total")) == (1, 3)


@pytest.mark.parametrize("phase", ["looking up", "preparing", "running"])
async def test_a_leader_that_goes_away_takes_nobody_along(scene: Scene, phase: str) -> None:
    gate = {"looking up": scene.far.get_gate, "preparing": scene.adder.prepare_gate, "running": scene.adder.run_gate}[phase]
    gate.close()
    leader = scene.ask("1")
    await asyncio.to_thread(gate.wait_for, 1)
    follower = scene.ask("2")
    await asyncio.sleep(0)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    gate.open()
    assert total(await follower) == 5
    assert scene.adder.batches == [[5]]
    assert scene.counter("cancelled_total") == 0


async def test_a_computation_that_nobody_waits_for_is_cancelled(scene: Scene) -> None:
    scene.adder.run_gate.close()
    busy = scene.ask("0", 1, 0, name=None)
    await scene.on_device(1)
    calls = [scene.ask(f"{i}") for i in range(2)]
    await once(lambda: scene.adder.num_prepared == 2)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await once(lambda: scene.counter("cancelled_total") == 1)
    scene.adder.run_gate.open()
    await busy
    assert total(await scene.ask("3")) == 5  # and does not stand in the way of the next
    assert scene.adder.batches == [[1], [5]]


async def test_a_leader_whose_time_is_up_takes_nobody_along(scene: Scene) -> None:
    scene.adder.run_gate.close()
    busy = scene.ask("0", 1, 0, name=None)
    await scene.on_device(1)
    leader = scene.ask("1", in_s=0.05)
    await once(lambda: scene.adder.num_prepared == 2)
    follower = scene.ask("2")
    with pytest.raises(DeadlineExceeded, match=r"in the queue of stage adder and never ran"):
        await leader
    scene.adder.run_gate.open()
    assert total(await follower) == 5
    await busy
    assert scene.counter("expired_total") == 0


async def test_a_leader_whose_time_is_up_before_it_is_queued_takes_nobody_along(scene: Scene) -> None:
    scene.far.get_gate.close()
    leader = scene.ask("1", in_s=0.05)
    await asyncio.to_thread(scene.far.get_gate.wait_for, 1)
    follower = scene.ask("2")
    with pytest.raises(DeadlineExceeded):
        await leader
    scene.far.get_gate.open()
    assert total(await follower) == 5


async def test_whoever_comes_just_as_the_last_one_leaves_is_served(scene: Scene) -> None:
    scene.adder.run_gate.close()
    leader = scene.ask("1")
    await scene.on_device(1)
    leader.cancel()
    next_one = scene.ask("2")
    await asyncio.gather(leader, return_exceptions=True)
    scene.adder.run_gate.open()
    assert total(await next_one) == 5


async def test_a_follower_with_less_time_leaves_alone(scene: Scene) -> None:
    scene.adder.run_gate.close()
    leader = scene.ask("1")
    await scene.on_device(1)
    follower = scene.ask("2", in_s=0.05)
    with pytest.raises(DeadlineExceeded, match=r"then ran|never ran"):
        await follower
    scene.adder.run_gate.open()
    assert total(await leader) == 5


async def test_a_request_ends_at_its_deadline_even_while_the_device_is_at_it(scene: Scene) -> None:
    scene.adder.run_gate.close()
    with pytest.raises(DeadlineExceeded):
        await scene.ask(in_s=0.05)
    await once(lambda: scene.counter("expired_total") == 1)
    assert scene.counter("cancelled_total") == 0
    scene.adder.run_gate.open()
    assert total(await scene.ask()) == 5


async def test_time_that_runs_out_while_a_tier_is_asked_says_so(scene: Scene) -> None:
    scene.far.get_gate.close()
    with pytest.raises(DeadlineExceeded, match="still being looked up for stage adder"):
        await scene.ask(in_s=0.02)


async def test_a_request_that_comes_too_late_is_refused(scene: Scene) -> None:
    with pytest.raises(DeadlineExceeded):
        await scene.ask(in_s=-1.0)
    assert scene.adder.batches == []


async def test_a_failed_computation_is_not_remembered_and_everyone_gets_its_error(scene: Scene) -> None:
    scene.adder.run_gate.close()
    calls = [scene.ask(f"{i}", a=13, b=0) for i in range(3)]
    await scene.on_device(1)
    scene.adder.run_gate.open()
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in errors] == [StageFailed] * 3
    assert len({str(error) for error in errors}) == 1
    with pytest.raises(StageFailed):
        await scene.ask(a=13, b=0)
    assert scene.adder.batches == [[13], [13]]
    assert scene.far.stats().entries == 0


async def test_what_cannot_be_prepared_fails_whoever_wanted_it(scene: Scene) -> None:
    with pytest.raises(InvalidRequest, match="13 can't be added"):
        await scene.ask(b=13)


async def test_a_full_queue_refuses_a_named_item_too(scene: Scene) -> None:
    scene.adder.run_gate.close()
    calls = [scene.ask("0", name=None)]
    await scene.on_device(1)
    calls += [scene.ask(f"{i}", name=None) for i in range(1, 5)]
    await once(lambda: scene.host.load()["adder"].queued == 4)
    with pytest.raises(QueueFull) as refused:
        await scene.ask("9")
    assert (refused.value.retry_after_s or 0) >= 1
    scene.adder.run_gate.open()
    await asyncio.gather(*calls)


async def test_a_stage_whose_results_are_no_arrays_fails_alone() -> None:
    class Lists(Adder):
        def run(self, batch: object) -> Any:
            return [{"total": [1]}]

    host = StageHost(cache=TieredCache([MemoryTier(2**20)]))
    host.add("adder", Lists())
    with pytest.raises(StageFailed):
        await host.call("adder", Item("1", Add(2, 3), "n"))
    await host.close()


async def test_shared_arrays_are_read_only(scene: Scene) -> None:
    reply = await scene.ask()
    with pytest.raises(ValueError, match="read-only"):
        reply.value.total[...] = 6


async def test_what_is_remembered_and_is_no_such_result_is_forgotten_and_made_again(scene: Scene) -> None:
    scene.far.put_many({HERE: {"something": np.asarray(4), "else": np.asarray(5)}})
    reply = await scene.ask()
    assert (total(reply), reply.receipt.cache) == (5, "miss")
    await scene.host.settled()
    assert [list(tier.get_many([HERE])[HERE]) for tier in (scene.memory, scene.far)] == [["total"], ["total"]]


async def test_a_model_of_other_weights_never_answers_with_what_these_have_made(scene: Scene) -> None:
    other = Adder()
    scene.host.add("other", other, contents=Contents("", "newer"))
    await scene.ask()
    await scene.host.settled()
    assert (await scene.host.call("other", Item("2", Add(2, 3), "n"))).receipt.cache == "miss"
    assert other.batches == [[5]]


async def test_a_result_that_is_no_number_is_an_error_for_everyone_who_waits_and_remembered_nowhere(scene: Scene) -> None:
    divider = Divider(run_gate=Gate(closed=True))
    scene.host.add("divider", divider)

    def ask(item_id: str) -> "asyncio.Task[Reply[Any]]":
        return asyncio.create_task(scene.host.call("divider", Item(item_id, Add(1, -1), "infinite")))

    first = ask("1")
    await asyncio.to_thread(divider.run_gate.wait_for, 1)
    followers = [ask("2"), ask("3")]
    await asyncio.sleep(0)
    divider.run_gate.open()
    outcomes = await asyncio.gather(first, *followers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StageFailed] * 3
    assert divider.batches == [[0]]
    await scene.host.settled()
    assert [tier.stats().entries for tier in (scene.memory, scene.far)] == [0, 0]
    with pytest.raises(StageFailed, match="NaN"):
        await ask("4")
    assert divider.batches == [[0], [0]]


async def test_different_names_are_computed_each(scene: Scene) -> None:
    replies = await asyncio.gather(*(scene.ask(f"{i}", i, 0, name=f"n{i}") for i in range(4)))
    assert [total(reply) for reply in replies] == [0, 1, 2, 3]
    assert scene.counter("cache_misses_total") == 4


async def test_a_stampede_for_one_name_computes_it_once(scene: Scene) -> None:
    replies = await asyncio.gather(*(scene.ask(f"{i}") for i in range(200)))
    assert {total(reply) for reply in replies} == {5}
    assert scene.adder.batches == [[5]]


async def test_two_replicas_share_what_they_computed_through_a_real_redis() -> None:
    server = await asyncio.to_thread(EmbeddedRedis, 8 * 2**20)
    adders = [Adder(), Adder()]
    hosts = [StageHost(cache=TieredCache([MemoryTier(2**20), RedisTier(server.url)])) for _ in adders]
    for host, adder in zip(hosts, adders, strict=True):
        host.add("adder", adder)
    first = await hosts[0].call("adder", Item("1", Add(2, 3), "n"))
    await hosts[0].close()  # what waits to be written is written
    second = await hosts[1].call("adder", Item("2", Add(2, 3), "n"))
    assert (first.receipt.cache, second.receipt.cache, second.receipt.bytes_moved) == ("miss", "redis", 8)
    assert total(second) == 5
    assert adders[1].batches == []
    await asyncio.to_thread(server.close)
    assert total(await hosts[1].call("adder", Item("3", Add(4, 4), "m"))) == 8  # Redis is gone: computed as ever
    await hosts[1].close()


async def test_a_name_that_two_stages_make_is_made_by_each(scene: Scene) -> None:
    other = Adder(run_gate=Gate(closed=True))
    scene.host.add("other", other, dtype="bfloat16")
    scene.adder.run_gate.close()
    calls = [asyncio.create_task(scene.host.call(stage, Item(stage, Add(2, 3), "n"))) for stage in ("adder", "other")]
    await scene.on_device(1)
    await asyncio.to_thread(other.run_gate.wait_for, 1)
    scene.open()
    other.run_gate.open()
    receipts = [reply.receipt for reply in await asyncio.gather(*calls)]
    assert [(receipt.stage, receipt.dtype, receipt.cache) for receipt in receipts] == [
        ("adder", "float32", "miss"),
        ("other", "bfloat16", "miss"),
    ]


async def test_an_error_of_one_stage_is_not_told_to_who_asked_another_for_the_same_name(scene: Scene) -> None:
    class Broken(Adder):
        def run(self, batch: object) -> Any:
            self.run_gate.pass_through()
            raise RuntimeError("it broke")

    broken = Broken(run_gate=Gate(closed=True))
    scene.host.add("broken", broken)
    failing = asyncio.create_task(scene.host.call("broken", Item("1", Add(2, 3), "n")))
    await asyncio.to_thread(broken.run_gate.wait_for, 1)
    assert total(await scene.ask("2")) == 5
    broken.run_gate.open()
    with pytest.raises(StageFailed, match="it broke"):
        await failing
