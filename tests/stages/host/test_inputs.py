"""What a stage needs of others: resolved in this process or elsewhere, for whoever needs it, before and while it runs."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from stages.checkpoints.checkpoint import Contents
from stages.contract.errors import (
    ConfigurationError,
    DeadlineExceeded,
    InputUnavailable,
    InvalidRequest,
    QueueFull,
    StageFailed,
    Unavailable,
)
from stages.contract.item import InputReceipts, Item, Reply, StageReceipt, StreamEnd
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.recipe import Recipe
from stages.host.event_feed import EventFeed
from stages.host.host import StageHost
from stages.host.submission import HostedEngine, Submission
from tests.stages.engine.self_scheduling import SelfSchedulingEngine
from tests.stages.fakes import Add, Adder, Countdown, CountFrom, FarTier, Gate, HandClock, Total
from tests.stages.host.elsewhere import Elsewhere, PoolsElsewhere
from tests.stages.host.test_host import collect, once


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


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    await scene.close()


def inputs(events: Sequence[object]) -> list[StageReceipt]:
    return [receipt for event in events if isinstance(event, InputReceipts) for receipt in event.receipts]


def counted(events: Sequence[object]) -> list[object]:
    """What the stage said."""
    assert isinstance(events[-1], StreamEnd)
    return [event for event in events if isinstance(event, int)]


def outcomes(events: Sequence[object]) -> list[str]:
    return [receipt.cache for receipt in inputs(events)]


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
    patient = scene.start(plus(2), priority=5)
    await once(lambda: len(scene.elsewhere.items) == 1)
    urgent = scene.start(plus(2), priority=-5)
    await once(lambda: len(scene.elsewhere.items) == 2)
    scene.elsewhere.let_go()
    assert counted(await patient) == counted(await urgent) == [2, 1, 0]
    assert [item.priority for item in scene.elsewhere.items] == [5, -5]
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


async def test_time_that_runs_out_while_an_input_is_made_says_so(scene: Scene) -> None:
    scene.elsewhere.hold()
    with pytest.raises(DeadlineExceeded, match=r"m\.adder"):
        await scene.start(plus(2), in_s=0.05)
    assert scene.count.started == []


async def test_what_is_wrong_with_an_input_names_each_requests_own_field(scene: Scene) -> None:
    scene.elsewhere.hold()
    bad: list[Recipe[Total]] = [Recipe("bad", "m.adder", Add(1, 13), param) for param in ("messages[0]", "messages[4]")]
    counting = [scene.start(recipe) for recipe in bad]
    await once(lambda: scene.here.metrics()[0].counters["waiting_for_inputs"] == 2)
    scene.elsewhere.let_go()
    errors = await asyncio.gather(*counting, return_exceptions=True)
    assert [type(error) for error in errors] == [InvalidRequest] * 2
    assert [getattr(error, "param", None) for error in errors] == ["messages[0]", "messages[4]"]
    assert scene.adder.num_prepared == 1


async def test_one_bad_input_ends_the_waiting_for_the_others(scene: Scene) -> None:
    scene.adder.run_gate.close()
    with pytest.raises(InvalidRequest):
        await scene.start(plus(2), Recipe("bad", "m.adder", Add(1, 13), "image"))
    await once(lambda: scene.elsewhere.num_cancelled == 1)


async def test_who_waits_for_inputs_counts_for_nothing_and_lets_others_pass(scene: Scene) -> None:
    scene.elsewhere.hold()
    waiting = [scene.start(plus(2)) for _ in range(3)]
    await once(lambda: scene.here.metrics()[0].counters["waiting_for_inputs"] == 3)
    load = scene.here.load()["m.count"]
    assert (load.queued, load.running) == (0, 0)
    others = await asyncio.gather(*[scene.start(start=2) for _ in range(3)])  # as many as the queue holds
    assert [counted(events) for events in others] == [[1, 0]] * 3
    scene.elsewhere.let_go()
    assert [counted(events) for events in await asyncio.gather(*waiting)] == [[2, 1, 0]] * 3


async def test_how_many_wait_for_inputs_is_bounded(scene: Scene) -> None:
    scene.elsewhere.hold()
    waiting = [scene.start(plus(n)) for n in range(3)]
    await once(lambda: scene.here.metrics()[0].counters["waiting_for_inputs"] == 3)
    with pytest.raises(QueueFull, match=r"3 requests wait for what it needs and queue\.max_items is 3") as refused:
        await scene.start(plus(9))
    assert (refused.value.retry_after_s or 0) >= 1
    scene.elsewhere.let_go()
    await asyncio.gather(*waiting)


async def test_who_waits_for_inputs_keeps_no_other_tenant_out(scene: Scene) -> None:
    scene.elsewhere.hold()
    waiting = [scene.start(plus(n), tenant="crowd") for n in range(3)]
    await once(lambda: scene.here.metrics()[0].counters["waiting_for_inputs"] == 3)
    with pytest.raises(QueueFull):
        await scene.start(plus(8), tenant="crowd")
    single = scene.start(plus(9), tenant="single")
    await once(lambda: scene.here.metrics()[0].counters["waiting_for_inputs"] == 4)
    with pytest.raises(QueueFull, match="4 requests wait"):
        await scene.start(plus(9), tenant="single")
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)
    assert scene.here.metrics()[0].counters["waiting_for_inputs"] == 1
    scene.elsewhere.let_go()
    assert counted(await single)[-1] == 0


async def test_what_is_made_for_an_item_is_its_tenants_and_its_requests_work(scene: Scene) -> None:
    item = Item("x", CountFrom(1, plus=(plus(2),)), tenant="crowd", request="n8")
    await collect(scene.here.stream("m.count", item))
    assert [(made.tenant, made.request) for made in scene.elsewhere.items] == [("crowd", "n8")]


async def test_what_a_stage_holds_already_is_never_asked_for(scene: Scene) -> None:
    scene.count.knows["n2"] = 2
    events = await scene.start(plus(2))
    assert counted(events) == [2, 1, 0]
    assert outcomes(events) == []
    assert scene.elsewhere.items == []


async def test_what_a_stage_lacks_after_all_is_resolved_while_it_waits(scene: Scene) -> None:
    forget_between(scene)
    events = await scene.start(plus(2))
    assert counted(events) == [2, 1, 0]
    assert outcomes(events) == ["miss"]
    assert scene.here.metrics()[0].counters["missing_inputs_total"] == 1


async def test_what_it_lacks_after_all_and_nobody_can_make_fails_it_alone(scene: Scene) -> None:
    forget_between(scene)
    scene.elsewhere.broken = Unavailable("nobody there")
    with pytest.raises(InputUnavailable, match="nobody there"):
        await scene.start(plus(2))
    assert counted(await scene.start(start=1)) == [0]
    load = scene.here.load()["m.count"]
    assert (load.queued, load.running) == (0, 0)


async def test_leaving_while_what_it_lacked_is_made_withdraws_that_too(scene: Scene) -> None:
    forget_between(scene)
    scene.elsewhere.hold()
    counting = scene.start(plus(2))
    await once(lambda: len(scene.elsewhere.items) == 1)
    counting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await counting
    await once(lambda: scene.elsewhere.num_cancelled == 1)


async def test_a_deadline_that_passes_while_what_it_lacked_is_made_ends_it(scene: Scene) -> None:
    forget_between(scene)
    scene.elsewhere.hold()
    with pytest.raises(DeadlineExceeded):
        await scene.start(plus(2), in_s=0.1)


def forget_between(scene: Scene) -> None:
    """The stage holds n2 when it is asked what it needs, and no longer when the row starts."""
    scene.count.knows = Forgetful(n2=2)


async def test_an_engine_that_schedules_itself_is_hosted_as_ours_are() -> None:
    gate = Gate(closed=True)
    engine, host = SelfSchedulingEngine(gate=gate, time=HandClock()), StageHost(cache=TieredCache([MemoryTier(2**20)]))
    host.add_engine(engine, max_waiting=1)
    host.add("m.adder", Adder())
    counting = asyncio.create_task(collect(host.stream("count", Item("r", CountFrom(1, plus=(plus(2),))))))
    gate.let(1)
    await asyncio.to_thread(gate.wait_for, 2)
    assert host.load()["count"].running == 1
    gate.open()
    events = await counting
    assert counted(events) == [2, 1, 0]
    assert outcomes(events) == ["miss"]
    await host.settled()
    engine.knows = Forgetful(n2=2)  # it asks for it after all, on its own thread
    events = await collect(host.stream("count", Item("r", CountFrom(1, plus=(plus(2),)))))
    assert counted(events) == [2, 1, 0]
    assert outcomes(events) == ["memory"]
    await host.close()


async def test_what_it_lacks_after_all_is_not_made_for_one_who_has_left() -> None:
    gate, asked = Gate(closed=True), list[str]()

    async def resolve(recipe: Recipe[Any], item: Item[Any]) -> Reply[Any]:
        asked.append(recipe.name)
        raise StageFailed("it is bad luck")

    engine = SelfSchedulingEngine(gate=gate, time=HandClock())
    submission = Submission(HostedEngine(engine, resolve, 1), Item("r", CountFrom(1)), EventFeed())
    await submission.begin()
    submission.end()
    submission.missing([plus(2)])  # it was said before, and is heard now
    await asyncio.sleep(0.01)
    assert asked == []
    gate.open()
    await asyncio.to_thread(engine.close)


async def test_how_many_wait_for_inputs_changes_while_it_serves(scene: Scene) -> None:
    scene.elsewhere.hold()
    waiting = [scene.start(plus(1))]
    await once(lambda: scene.here.metrics()[0].counters["waiting_for_inputs"] == 1)
    scene.here.limit_queue("m.count", QueueLimits(1))
    with pytest.raises(QueueFull, match=r"queue\.max_items is 1"):
        await scene.start(plus(2))
    scene.elsewhere.let_go()
    await asyncio.gather(*waiting)


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


async def test_closing_ends_who_waits_for_inputs_with_unavailable(scene: Scene) -> None:
    scene.elsewhere.hold()
    counting = scene.start(plus(2))
    await once(lambda: len(scene.elsewhere.items) == 1)
    await scene.here.close()
    with pytest.raises(Unavailable):
        await counting
    assert scene.elsewhere.num_cancelled == 1


async def test_a_stream_of_infinite_pace_tells_of_what_was_made_for_it(scene: Scene) -> None:
    item = Item("r", CountFrom(3, plus=(plus(2),)), pace_s=float("inf"))
    async with aclosing(scene.here.stream("m.count", item)) as batches:
        (events,) = [batch async for batch in batches]
    assert counted(events) == [4, 3, 2, 1, 0]
    assert outcomes(events) == ["miss"]


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


async def test_a_name_that_two_stages_elsewhere_make_is_asked_of_each(scene: Scene) -> None:
    scene.there.add("b.adder", Adder(), dtype="bfloat16", contents=Contents("", "w"))
    scene.elsewhere.hold()
    both = [scene.start(Recipe("n", stage, Add(2))) for stage in ("m.adder", "b.adder")]
    await once(lambda: len(scene.elsewhere.items) == 2)
    scene.elsewhere.let_go()
    answers = [inputs(events) for events in await asyncio.gather(*both)]
    assert [[(receipt.stage, receipt.dtype, receipt.cache) for receipt in receipts] for receipts in answers] == [
        [("m.adder", "float32", "miss")],
        [("b.adder", "bfloat16", "miss")],
    ]


@pytest.mark.parametrize(("dtype", "outcome"), [("float32", "miss"), ("bfloat16", "memory")])
async def test_what_replaced_weights_made_is_not_found_any_more_and_what_other_pools_made_is(
    scene: Scene, dtype: str, outcome: str
) -> None:
    await scene.start(plus(1))
    await asyncio.gather(scene.here.settled(), scene.there.settled())
    newer = scene.elsewhere.host = StageHost(cache=TieredCache([MemoryTier(2**20)]))
    newer.add("m.adder", Adder(), dtype=dtype, contents=Contents("", "newer"))
    assert outcomes(await scene.start(plus(2))) == ["miss"]
    assert outcomes(await scene.start(plus(1))) == [outcome]
    await newer.close()


MADE = "off"  # by a pool, which remembers nothing itself


async def pools_and_who_asks() -> tuple[PoolsElsewhere, StageHost]:
    """Two pools of unlike dtypes, and a host that has had an answer of each: n1 of the first, n2 of the second."""
    pools = PoolsElsewhere(whole=adding("float32"), half=adding("float16"))
    here = StageHost(cache=TieredCache([MemoryTier(2**20)]), elsewhere=pools)
    here.add("m.count", Countdown())
    for pool, number in (("whole", 1), ("half", 2)):
        pools.asked = pool
        assert await outcome_of(here, number) == MADE
    return pools, here


def adding(dtype: str, contents: str = "w") -> StageHost:
    host = StageHost()
    host.add("m.adder", Adder(), dtype=dtype, contents=Contents("", contents))
    return host


async def outcome_of(here: StageHost, number: int) -> str:
    (outcome,) = outcomes(await collect(here.stream("m.count", Item("r", CountFrom(1, plus=(plus(number),))))))
    await here.settled()
    return outcome


async def closed(*hosts: StageHost) -> None:
    await asyncio.gather(*(host.close() for host in hosts))


async def test_what_any_pool_of_a_stage_has_made_will_do() -> None:
    pools, here = await pools_and_who_asks()
    assert [await outcome_of(here, number) for number in (1, 2)] == ["memory", "memory"]
    assert pools.num_calls == 2
    await closed(here, *pools.hosts.values())


async def test_what_a_pool_that_is_gone_has_made_is_made_again() -> None:
    pools, here = await pools_and_who_asks()
    gone = pools.hosts.pop("whole")
    assert [await outcome_of(here, number) for number in (1, 2)] == [MADE, "memory"]
    await closed(here, gone, *pools.hosts.values())


async def test_what_a_pool_made_in_another_dtype_before_is_made_again() -> None:
    pools, here = await pools_and_who_asks()
    before, pools.hosts["half"] = pools.hosts["half"], adding("bfloat16")
    assert await outcome_of(here, 3) == MADE
    assert [await outcome_of(here, number) for number in (1, 2, 3)] == ["memory", MADE, "memory"]
    await closed(here, before, *pools.hosts.values())


async def test_of_one_dtype_pools_have_the_weights_that_one_of_them_answered_with_last() -> None:
    pools, here = await pools_and_who_asks()
    pools.hosts["more"], pools.asked = adding("float32", "newer"), "more"
    assert await outcome_of(here, 3) == MADE
    assert [await outcome_of(here, number) for number in (1, 2)] == [MADE, "memory"]
    await closed(here, *pools.hosts.values())


async def test_a_stream_says_how_long_ago_each_input_was_at_hand(scene: Scene) -> None:
    scene.count.gate.close()
    counting = asyncio.create_task(
        collect(scene.here.stream("m.count", Item("r", CountFrom(1, plus=(plus(2),)), pace_s=float("inf"))))
    )
    await asyncio.to_thread(scene.count.gate.wait_for, 1)
    began = time.monotonic()
    await asyncio.to_thread(scene.adder.run_gate.wait_for, 1)
    passed_s = time.monotonic() - began
    scene.count.gate.open()
    (receipt,) = inputs(await counting)
    assert receipt.ago_s >= passed_s > 0


async def test_a_reply_says_how_long_ago_each_input_was_at_hand(scene: Scene) -> None:
    adder = Adder(run_gate=Gate(closed=True))
    scene.here.add("m.sum", adder)
    call: asyncio.Task[Any] = asyncio.create_task(scene.here.call("m.sum", Item("r", Add(0, 0, (plus(7),)), "sum")))
    await asyncio.to_thread(adder.run_gate.wait_for, 1)
    began = time.monotonic()
    await asyncio.to_thread(scene.adder.run_gate.wait_for, 1)
    passed_s = time.monotonic() - began
    adder.run_gate.open()
    reply = await call
    assert [receipt.ago_s >= passed_s > 0 for receipt in reply.inputs] == [True]
    assert [receipt.stage for receipt in reply.receipts] == ["m.adder", "m.sum"]


async def test_a_stream_that_fails_has_told_of_its_inputs(scene: Scene) -> None:
    stream = scene.here.stream("m.count", Item("r", CountFrom(3, fails_at=2, plus=(plus(0),)), pace_s=float("inf")))
    events = await anext(stream)
    assert outcomes(events) == ["miss"]
    with pytest.raises(StageFailed, match="the row broke"):
        await anext(stream)


async def test_a_stream_that_is_left_has_told_of_its_inputs_with_its_first_event(scene: Scene) -> None:
    async with aclosing(scene.here.stream("m.count", Item("r", CountFrom(50, plus=(plus(2),))))) as batches:
        assert outcomes(await anext(batches)) == ["miss"]


async def test_what_is_refused_once_its_inputs_are_at_hand_has_told_of_them(scene: Scene) -> None:
    scene.elsewhere.hold()
    scene.count.gate.close()
    stream = scene.here.stream("m.count", Item("r", CountFrom(1, plus=(plus(2),)), tenant="t"))
    first = asyncio.create_task(anext(stream))
    await once(lambda: len(scene.elsewhere.items) == 1)
    others = [scene.start(start=2)]
    await asyncio.to_thread(scene.count.gate.wait_for, 1)
    others += [scene.start(start=2) for _ in range(3)]
    await once(lambda: scene.here.load()["m.count"].queued == 3)  # it was not when this one came
    scene.elsewhere.let_go()
    assert outcomes(await first) == ["miss"]
    with pytest.raises(QueueFull):
        await anext(stream)
    scene.count.gate.open()
    await asyncio.gather(*others)


def ended(scene: Scene) -> dict[str, float]:
    """How often something ended without an answer, by how."""
    counters = scene.here.metrics()[0].counters
    found = {how: counters[f"{how}_total"] for how in ("rejected", "expired", "cancelled", "failed")}
    return {how: count for how, count in found.items() if count}


async def test_what_is_refused_because_too_many_wait_for_inputs_is_counted(scene: Scene) -> None:
    scene.elsewhere.hold()
    waiting = [scene.start(plus(n)) for n in range(3)]
    await once(lambda: scene.here.metrics()[0].counters["waiting_for_inputs"] == 3)
    with pytest.raises(QueueFull):
        await scene.start(plus(9))
    scene.elsewhere.let_go()
    await asyncio.gather(*waiting)
    assert ended(scene) == {"rejected": 1}


@pytest.mark.parametrize("late", [False, True])
async def test_what_ends_while_it_waits_for_inputs_is_counted_once(scene: Scene, late: bool) -> None:
    if late:
        forget_between(scene)
    scene.elsewhere.hold()
    with pytest.raises(DeadlineExceeded):
        await scene.start(plus(2), in_s=0.1)
    assert ended(scene) == {"expired": 1}


async def test_who_leaves_while_it_waits_for_inputs_is_counted(scene: Scene) -> None:
    scene.elsewhere.hold()
    counting = scene.start(plus(2))
    await once(lambda: len(scene.elsewhere.items) == 1)
    counting.cancel()
    await asyncio.gather(counting, return_exceptions=True)
    assert ended(scene) == {"cancelled": 1}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("how", ["failed", "rejected"])
async def test_an_input_that_can_not_be_had_is_counted_as_what_it_is_and_not_as_cancelled(
    scene: Scene, how: str, late: bool
) -> None:
    if late:
        scene.count.knows = Forgetful(bad=2)
    scene.elsewhere.broken = Unavailable("nobody there") if how == "rejected" else None
    with pytest.raises(InputUnavailable if how == "rejected" else InvalidRequest):
        await scene.start(Recipe("bad", "m.adder", Add(1, 13), "image"))
    assert ended(scene) == {how: 1}


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
