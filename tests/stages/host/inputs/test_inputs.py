"""What a stage needs of others: resolved in this process or elsewhere, for whoever needs it, once."""

import asyncio
import time
from typing import Any

import pytest

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from stages.contract.errors import (
    ConfigurationError,
    DeadlineExceeded,
    InputUnavailable,
    Unavailable,
)
from stages.contract.item import Item
from stages.contract.limits import QueueLimits
from stages.contract.recipe import Recipe
from stages.host.host import StageHost
from tests.stages.fakes import Add, Adder, Countdown, CountFrom, Gate
from tests.stages.host.elsewhere import Elsewhere
from tests.stages.host.hosting import collect, once
from tests.stages.host.inputs.needing import Scene, counted, inputs, outcomes, plus


async def test_what_it_needs_is_made_elsewhere_and_remembered_there_and_here(scene: Scene) -> None:
    first = await scene.start(plus(2), start=1)
    assert counted(first) == [2, 1, 0]
    assert [(receipt.stage, receipt.replica, receipt.cache) for receipt in inputs(first)] == [("m.adder", "there", "miss")]
    await asyncio.gather(scene.here.settled(), scene.there.settled())
    assert (scene.memory.stats().entries, scene.far.stats().puts) == (1, 1)
    second = await scene.start(plus(2), start=1)
    assert counted(second) == [2, 1, 0]
    assert [(receipt.stage, receipt.replica, receipt.cache) for receipt in inputs(second)] == [("m.adder", "here", "memory")]
    assert len(scene.elsewhere.items) == 1


async def test_once_a_maker_is_known_what_it_remembered_is_found_without_it(scene: Scene) -> None:
    await scene.start(plus(1))
    await scene.there.call("m.adder", Item("another's", Add(3), "n3"))
    await scene.there.settled()
    scene.elsewhere.broken = Unavailable("its replica died")
    assert outcomes(await scene.start(plus(3))) == ["redis"]
    with pytest.raises(InputUnavailable, match="its replica died"):
        await scene.start(plus(4))


async def test_all_that_is_needed_is_asked_for_at_once(scene: Scene) -> None:
    scene.elsewhere.hold()
    counting = scene.start(plus(1), plus(2), plus(3))
    await once(lambda: len(scene.elsewhere.items) == 3)
    scene.elsewhere.let_go()
    events = await counting
    assert counted(events) == [6, 5, 4, 3, 2, 1, 0]
    assert outcomes(events) == ["miss"] * 3


async def test_what_lives_in_the_same_host_is_resolved_in_process() -> None:
    host = StageHost(cache=TieredCache([MemoryTier(2**20)]))
    host.add("m.adder", Adder())
    host.add("m.count", Countdown())
    for expected in ("miss", "memory"):
        events = await collect(host.stream("m.count", Item("r", CountFrom(1, plus=(plus(2),)))))
        assert counted(events) == [2, 1, 0]
        assert outcomes(events) == [expected]
        await host.settled()
    await host.close()


async def test_recipes_may_hold_recipes(scene: Scene) -> None:
    events = await scene.start(plus(1, "outer", None, plus(2, "inner")))
    assert counted(events) == [3, 2, 1, 0]
    assert outcomes(events) == ["miss", "miss"]


async def test_whoever_wants_the_same_joins_here_and_nothing_is_counted_twice(scene: Scene) -> None:
    scene.elsewhere.hold()
    counting = [scene.start(plus(2)) for _ in range(3)]
    await once(lambda: scene.here.metrics()[0].counters["waiting_for_inputs"] == 3)
    scene.elsewhere.let_go()
    answers = await asyncio.gather(*counting)
    assert sorted(outcome for events in answers for outcome in outcomes(events)) == ["joined", "joined", "miss"]
    assert sum(receipt.device_s > 0 for events in answers for receipt in inputs(events)) == 1
    assert len(scene.elsewhere.items) == 1


async def test_deadline_priority_and_tenant_reach_what_is_called(scene: Scene) -> None:
    await scene.start(plus(2), in_s=100.0, priority=7, id="mine")
    called = scene.elsewhere.items[0]
    assert (called.id, called.name, called.priority, called.tenant) == ("mine:adder", "n2", 7, "t")
    assert 90 < called.deadline - time.time() <= 100


async def test_a_more_urgent_one_does_not_wait_in_the_others_place(scene: Scene) -> None:
    scene.elsewhere.hold()
    patient = scene.start(plus(2), priority=0)
    await once(lambda: len(scene.elsewhere.items) == 1)
    urgent = scene.start(plus(2), priority=-5)
    await once(lambda: len(scene.elsewhere.items) == 2)
    scene.elsewhere.let_go()
    assert counted(await patient) == counted(await urgent) == [2, 1, 0]
    assert [item.priority for item in scene.elsewhere.items] == [0, -5]
    assert scene.adder.batches == [[2]]  # they meet where it is made


async def test_a_leader_that_goes_away_fails_no_follower(scene: Scene) -> None:
    scene.elsewhere.hold()
    leader = scene.start(plus(2))
    await once(lambda: len(scene.elsewhere.items) == 1)
    follower = scene.start(plus(2))
    await once(lambda: scene.here.metrics()[0].counters["waiting_for_inputs"] == 2)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    scene.elsewhere.let_go()
    assert counted(await follower) == [2, 1, 0]
    assert (len(scene.elsewhere.items), scene.elsewhere.num_cancelled) == (1, 0)


async def test_a_leader_whose_time_is_up_fails_no_follower(scene: Scene) -> None:
    scene.elsewhere.hold()
    leader = scene.start(plus(2), in_s=0.05)
    await once(lambda: len(scene.elsewhere.items) == 1)
    follower = scene.start(plus(2), in_s=100.0)
    with pytest.raises(DeadlineExceeded):
        await leader
    await once(lambda: len(scene.elsewhere.items) == 2)  # made again, with the follower's time
    scene.elsewhere.let_go()
    assert counted(await follower) == [2, 1, 0]


async def test_a_call_that_nobody_waits_for_is_cancelled(scene: Scene) -> None:
    scene.elsewhere.hold()
    counting = [scene.start(plus(2)) for _ in range(2)]
    await once(lambda: scene.here.metrics()[0].counters["waiting_for_inputs"] == 2)
    await once(lambda: len(scene.elsewhere.items) == 1)
    for one in counting:
        one.cancel()
    await asyncio.gather(*counting, return_exceptions=True)
    await once(lambda: scene.elsewhere.num_cancelled == 1)
    assert scene.here.metrics()[0].counters["waiting_for_inputs"] == 0


async def test_what_is_made_for_an_item_is_its_tenants_and_its_requests_work(scene: Scene) -> None:
    item = Item("x", CountFrom(1, plus=(plus(2),)), tenant="crowd", request="n8")
    await collect(scene.here.stream("m.count", item))
    assert [(made.tenant, made.request) for made in scene.elsewhere.items] == [("crowd", "n8")]


async def test_stages_elsewhere_are_counted_by_what_was_answered_here(scene: Scene) -> None:
    await scene.start(plus(2))
    await scene.here.settled()
    await scene.start(plus(2))
    (count, adder) = scene.here.metrics()
    assert (count.stage, adder.stage, adder.replica) == ("m.count", "m.adder", "here")
    assert (count.is_hosted, adder.is_hosted) == (True, False)
    assert adder.counters == {
        "cache_hits_memory_total": 1,
        "cache_hits_redis_total": 0,
        "cache_misses_total": 0,  # counted there
        "cache_joined_total": 0,
        "cache_waits_total": 0,
        "cache_wait_seconds_total": 0,
    }


async def test_a_stream_is_no_input_and_who_is_unknown_makes_none() -> None:
    host = StageHost()
    host.add("m.count", Countdown())
    for stage, message in (("m.count", "its answer is a stream"), ("m.adder", "neither hosted here nor known elsewhere")):
        with pytest.raises(ConfigurationError, match=message):
            await collect(host.stream("m.count", Item("r", CountFrom(1, plus=(Recipe("n", stage, Add(1)),)))))
    await host.close()


async def test_one_shot_stages_wait_for_inputs_before_the_engine_hears_of_them() -> None:
    there, adder = StageHost(replica="there"), Adder(run_gate=Gate(closed=True))
    there.add("m.adder", adder)
    here: Any = StageHost(elsewhere=Elsewhere(there))
    here.add("m.sum", Adder(), queue=QueueLimits(1))
    call = asyncio.create_task(here.call("m.sum", Item("r", Add(0, 0, (plus(7),)), "sum")))
    await asyncio.to_thread(adder.run_gate.wait_for, 1)
    assert here.load()["m.sum"].queued == 0
    assert int((await here.call("m.sum", Item("free", Add(1, 1)))).value.total) == 2
    adder.run_gate.open()
    reply = await call
    assert int(reply.value.total) == 7
    assert [receipt.stage for receipt in reply.inputs] == ["m.adder"]
    await asyncio.gather(here.close(), there.close())


async def test_who_joins_with_more_time_while_an_input_is_made_has_it_made_again(scene: Scene) -> None:
    scene.here.add("m.sum", Adder())
    scene.elsewhere.hold()

    def ask(in_s: float) -> asyncio.Task[Any]:
        item = Item("r", Add(0, 0, (plus(7),)), "sum", deadline=time.time() + in_s)
        return asyncio.create_task(scene.here.call("m.sum", item))

    leader = ask(0.3)
    await once(lambda: len(scene.elsewhere.items) == 1)
    follower = ask(100.0)
    with pytest.raises(DeadlineExceeded):
        await leader
    await once(lambda: len(scene.elsewhere.items) == 2)
    scene.elsewhere.let_go()
    assert int((await follower).value.total) == 7
    assert scene.elsewhere.items[1].deadline - time.time() > 90


async def test_a_host_tells_which_results_its_stages_need_not_be_given(scene: Scene) -> None:
    scene.here.add("m.sum", Adder())
    scene.count.knows["n2"] = 2
    held = {stage: list(names) for stage, names in scene.here.residency().items()}
    assert held == {"m.count": ["n2"], "m.sum": []}
