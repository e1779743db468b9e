"""How a stage client chooses between the pools of a stage, what it learns from replies, and what it refuses: fake deployments."""

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from numpy.typing import NDArray

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from pipelines.client import Visit
from pipelines.cluster.serve_client import MEETING_S, MEETINGS, ServeStageClient
from pipelines.routing.admission import Admission, forecast
from pipelines.routing.candidate import Wanted
from pipelines.routing.table import Member, ReplicaTable, pool_key
from stages.contract.cost import Part
from stages.contract.errors import QueueFull, StageFailed
from stages.contract.item import Item, Reply, StreamEnd, tenant_hint
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.work import Work
from stages.host.host import StageHost
from tests.pipelines.cluster.fake_serve import FakeDeployment, FakeHandle
from tests.pipelines.routing.fleet import news
from tests.stages.fakes import Add, Adder, Countdown, CountFrom
from tests.stages.host.hosting import collect

ADD, COUNT = "m.adder", "m.count"
ONE = Work(1.0)


class Scene:
    """Two pools of one replica each: "left" and "right"."""

    def __init__(self, admission: Admission | None = Admission()) -> None:
        self.table = ReplicaTable(random.Random(1).random)
        self.made: dict[str, int] = {"left": 0, "right": 0}
        self.pools = {pool: FakeDeployment(lambda pool=pool: self.host(pool)) for pool in self.made}  # type: ignore[misc]
        for pool in self.pools:
            self.table.members(pool_key("app", pool), [Member(pool, 64)], lambda replica: None, 0.0)
        handles: dict[str, Any] = {pool: deployment.handle for pool, deployment in self.pools.items()}
        stages = {ADD: tuple(self.pools), COUNT: tuple(self.pools)}
        self.client = ServeStageClient(handles, stages, table=self.table, admission=admission)

    def host(self, pool: str) -> StageHost:
        host = StageHost(cache=TieredCache([MemoryTier(2**20)]), replica=pool)
        host.add(ADD, Adder(), batch=BatchLimits(1), queue=QueueLimits(8))
        host.add(COUNT, Countdown(slots=2))
        return host

    def busy(self, pool: str, num_items: int, stage: str = ADD) -> None:
        """As it says of itself, though it has nothing to do."""
        told = replace(news(pool, num_items, each=ONE), stage=stage, number=10**6 + num_items)
        self.table.heard(pool_key("app", pool), told, time.monotonic())

    async def ask(self, payload: Add, name: str | None = None, **given: Any) -> Reply[Any]:
        return await self.client.call(ADD, Item("r", payload, name, work=ONE, **given))

    async def close(self) -> None:
        for deployment in self.pools.values():
            await deployment.close()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    await scene.close()


@pytest.mark.parametrize(("busy", "chosen"), [("left", "right"), ("right", "left")])
async def test_an_item_goes_to_the_pool_that_will_be_done_sooner(scene: Scene, busy: str, chosen: str) -> None:
    scene.busy(busy, 30)
    scene.busy(chosen, 0)
    receipt = (await scene.ask(Add(1, 2))).receipt
    assert (receipt.pool, receipt.replica) == (chosen, chosen)
    assert (receipt.runner_up_pool, receipt.runner_up) == (busy, busy)
    assert receipt.expected_s is not None
    assert receipt.runner_up_s is not None
    assert receipt.expected_s < receipt.runner_up_s


async def test_a_streams_receipt_says_so_too_and_its_end_brings_news_of_the_replica(scene: Scene) -> None:
    scene.busy("left", 30, COUNT)
    scene.busy("right", 0, COUNT)
    end = (await collect(scene.client.stream(COUNT, Item("r", CountFrom(2), work=Work(2.0, 2.0)))))[-1]
    assert isinstance(end, StreamEnd)
    assert (end.receipt.pool, end.receipt.runner_up_pool) == ("right", "left")
    assert not end.news  # it is for the client alone


async def test_a_reply_tells_what_its_replica_holds_now_and_the_next_who_wants_it_is_sent_there(scene: Scene) -> None:
    first = await scene.ask(Add(1, 2), "a name")
    again = [await scene.ask(Add(1, 2), "a name") for _ in range(8)]
    assert {reply.receipt.pool for reply in again} == {first.receipt.pool}
    assert {reply.receipt.cache for reply in again} <= {
        "memory",
        "joined",
    }  # what has just been made is remembered a moment later
    assert again[0].receipt.remembered == ("its result",)


async def test_who_is_in_a_pool_is_waited_for_once_only(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    meetings: list[float] = []
    sleep = asyncio.sleep

    async def counted(delay: float, result: object = None) -> object:
        if delay == MEETING_S:
            meetings.append(delay)
        return await sleep(0, result)

    monkeypatch.setattr(asyncio, "sleep", counted)
    del scene.table._pools[pool_key("app", "right")]
    for _ in range(3):
        assert (await scene.ask(Add(1, 2))).receipt.pool == "left"
    assert len(meetings) == MEETINGS


@pytest.mark.parametrize(
    ("priority", "left_s", "chosen"), [(0, 1e6, "left"), (1, 1e6, "right"), (1, 15.0, "left"), (-1, 1e6, "left")]
)
async def test_what_is_not_urgent_leaves_the_faster_pool_to_others_unless_its_deadline_is_near(
    scene: Scene, priority: int, left_s: float, chosen: str
) -> None:
    """Alone it takes 11 seconds at the left, and 20 at the right."""
    for pool, times in (("left", 100.0), ("right", 180.0)):
        told = replace(news(pool, times=times, each=ONE), stage=ADD, number=10**6)
        scene.table.heard(pool_key("app", pool), told, time.monotonic())
    receipt = (await scene.ask(Add(1, 2), priority=priority, deadline=time.time() + left_s)).receipt
    assert receipt.pool == chosen
    assert receipt.reasons[0].startswith("the soonest" if chosen == "left" else "soon enough")


@pytest.mark.parametrize("method", ["call", "stream"])
async def test_what_waits_for_a_pool_to_start_goes_to_another_that_has_a_replica_by_then(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("pipelines.cluster.serve_client.UNPLACED_S", 0.01)
    asleep = FakeDeployment(lambda: scene.host("left"), max_ongoing=0)
    handles: dict[str, Any] = {"left": asleep.handle, "right": scene.pools["right"].handle}
    client = ServeStageClient(handles, {ADD: ("left", "right"), COUNT: ("left", "right")}, table=scene.table)
    for pool in scene.pools:
        scene.table.members(pool_key("app", pool), [], lambda replica: None, 0.0)
    if method == "call":
        waiting = asyncio.ensure_future(client.call(ADD, Item("r", Add(1, 2), work=ONE)))
    else:
        waiting = asyncio.ensure_future(collect(client.stream(COUNT, Item("r", CountFrom(2), work=ONE))))  # type: ignore[arg-type]
    assert not (await asyncio.wait([waiting], timeout=0.05))[0]  # nobody is there
    assert sum(demand.num_unplaced for demand in scene.table.demand().values()) == 1
    scene.table.members(pool_key("app", "right"), [Member("right", 64)], lambda replica: None, 1.0)
    answer: Any = await asyncio.wait_for(waiting, 30)
    receipt = answer.receipt if method == "call" else answer[-1].receipt
    assert receipt.pool == "right"
    assert asleep.num_requests == 0
    assert not scene.table.demand()
    await asyncio.sleep(0)
    assert asleep.num_queued == 0  # it was called off there
    await asleep.close()


class Sending(FakeHandle):
    """What it is given is on its way to the pool's only replica."""

    def remote(self, stage: str, item: object, *beside: NDArray[Any], to: Any = None) -> Any:
        to.went("left")
        return super().remote(stage, item, *beside, to=to)


class Losing(FakeHandle):
    """It came back from there, and there is nobody else."""

    def remote(self, stage: str, item: object, *beside: NDArray[Any], to: Any = None) -> Any:
        to.went("left")
        to.came_back(is_lost=True)
        return super().remote(stage, item, *beside, to=to)


class Accepting(FakeHandle):
    """It is there, and takes its time."""

    def remote(self, stage: str, item: object, *beside: NDArray[Any], to: Any = None) -> Any:
        to.went("left")
        to.was_accepted()
        return super().remote(stage, item, *beside, to=to)


def beside_the_right_one(scene: Scene, left: FakeHandle) -> ServeStageClient:
    """Who would have "left" do it."""
    for stage in (ADD, COUNT):
        scene.busy("right", 30, stage)
        scene.busy("left", 0, stage)
    handles: dict[str, Any] = {"left": left, "right": scene.pools["right"].handle}
    return ServeStageClient(handles, {ADD: ("left", "right"), COUNT: ("left", "right")}, table=scene.table)


@pytest.mark.parametrize("method", ["call", "stream"])
@pytest.mark.parametrize("handle", [Losing, Sending])
async def test_what_a_replica_that_is_gone_or_stopped_has_not_accepted_goes_to_another(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, method: str, handle: type[FakeHandle]
) -> None:
    monkeypatch.setattr("pipelines.cluster.serve_client.UNPLACED_S", 0.01)
    monkeypatch.setattr("pipelines.cluster.serve_client.UNACCEPTED_S", 0.01 if handle is Sending else 1000.0)
    stopped = FakeDeployment(lambda: scene.host("left"), max_ongoing=0)
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["message"]))
    client = beside_the_right_one(scene, handle(stopped))
    answer: Any
    if method == "call":
        answer = await asyncio.wait_for(client.call(ADD, Item("r", Add(1, 2), work=ONE)), 30)
    else:
        answer = (await asyncio.wait_for(collect(client.stream(COUNT, Item("r", CountFrom(2), work=ONE))), 30))[-1]
    assert answer.receipt.pool == "right"
    assert not scene.table.demand()
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    assert not told  # of a task that nobody asked
    assert stopped.num_queued == 0  # it was called off there
    await stopped.close()


@pytest.mark.parametrize("handle", [Accepting, Sending])
async def test_what_has_been_accepted_or_was_sent_just_now_stays_where_it_is(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, handle: type[FakeHandle]
) -> None:
    monkeypatch.setattr("pipelines.cluster.serve_client.UNPLACED_S", 0.001)
    monkeypatch.setattr("pipelines.cluster.serve_client.UNACCEPTED_S", 0.001 if handle is Accepting else 1000.0)
    slow = FakeDeployment(lambda: scene.host("left"), max_ongoing=0)
    client = beside_the_right_one(scene, handle(slow))
    waiting = asyncio.ensure_future(client.call(ADD, Item("r", Add(1, 2), work=ONE)))
    assert not (await asyncio.wait([waiting], timeout=0.1))[0]
    assert scene.pools["right"].num_requests == 0
    waiting.cancel()
    await asyncio.wait([waiting])
    await slow.close()


async def test_what_has_ended_is_no_longer_counted_as_sent(scene: Scene) -> None:
    await asyncio.gather(*(scene.ask(Add(1, number)) for number in range(8)))
    with pytest.raises(StageFailed):
        await scene.ask(Add(13))
    assert not scene.table.demand()


async def test_what_could_not_even_be_sent_is_no_longer_counted_either(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object, **named: object) -> None:
        raise OSError("the object store is full")

    monkeypatch.setattr(FakeHandle, "remote", fails)
    with pytest.raises(StageFailed):
        await scene.ask(Add(1, 2))
    with pytest.raises(StageFailed):
        await collect(scene.client.stream(COUNT, Item("r", CountFrom(2), work=ONE)))
    monkeypatch.setattr("pipelines.cluster.serve_client.packed", fails)
    with pytest.raises(StageFailed):
        await collect(scene.client.stream(COUNT, Item("r", CountFrom(2), work=ONE)))
    assert not scene.table.demand()


async def test_a_replica_that_has_just_failed_a_request_is_not_asked_the_same_again(scene: Scene) -> None:
    scene.busy("left", 0)
    scene.busy("right", 30)
    await scene.pools["left"].replica.host.close()  # it refuses, and is the soonest by far
    assert (await scene.ask(Add(1, 2))).receipt.pool == "right"
    assert scene.pools["left"].num_requests == 1


async def test_what_cannot_end_in_time_is_refused_with_the_time_after_which_it_could(scene: Scene) -> None:
    for pool in scene.pools:
        scene.busy(pool, 100)
    visits, now = [Visit(ADD, ONE)], time.time()
    with pytest.raises(QueueFull, match=r"m\.adder.*routing\.admission") as refused:
        scene.client.admit(visits, deadline=now + 0.5)
    assert refused.value.retry_after_s is not None
    assert 1 <= refused.value.retry_after_s < 10
    scene.client.admit(visits, deadline=now + 60)
    scene.client.admit(visits, deadline=float("inf"))


async def test_who_comes_when_told_to_is_judged_less_strictly_than_a_newcomer(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a stage whose items are hard to foresee, which has as much to do by then as before."""
    at, visits = time.monotonic(), [Visit(ADD, ONE)]
    monkeypatch.setattr(time, "monotonic", lambda: at)
    monkeypatch.setattr(time, "time", lambda: 1000.0)

    def tell(number: int) -> None:
        for pool in scene.pools:
            told = replace(news(pool, 30, each=ONE), stage=ADD, number=10**6 + number)
            assert told.speed is not None
            scene.table.heard(pool_key("app", pool), replace(told, speed=replace(told.speed, margin=2.0)), at)

    tell(0)
    ranked = scene.table.ranked(ADD, [pool_key("app", pool) for pool in scene.pools], Wanted(ONE), at)
    assert ranked is not None
    expected = forecast([ranked])
    deadline = 1000.0 + (expected.promised_s + expected.quantile_s) / 2
    with pytest.raises(QueueFull) as refused:
        scene.client.admit(visits, deadline=deadline, asked="first")
    assert refused.value.retry_after_s is not None
    at += refused.value.retry_after_s
    tell(1)
    with pytest.raises(QueueFull):
        scene.client.admit(visits, deadline=deadline, asked="newcomer")
    scene.client.admit(visits, deadline=deadline, asked="first")


async def test_who_was_refused_finds_room_when_told_to_come_and_a_newcomer_leaves_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pool in scene.pools:
        scene.busy(pool, 30)
    at, visits = time.monotonic(), [Visit(ADD, ONE)]
    monkeypatch.setattr(time, "monotonic", lambda: at)
    monkeypatch.setattr(time, "time", lambda: 1000.0)

    def refusal(left_s: float, asked: str = "") -> QueueFull | None:
        try:
            scene.client.admit(visits, deadline=1000.0 + left_s, asked=asked)
        except QueueFull as error:
            return error
        return None

    def enough_s() -> float:
        """The least that a newcomer may have left."""
        low, high = 0.0, 1000.0
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (low, middle) if refusal(middle) is None else (middle, high)
        return high

    before_s = enough_s()
    told = refusal(0.9 * before_s, "first")
    assert told is not None
    assert told.retry_after_s is not None
    at += told.retry_after_s
    for pool in scene.pools:
        scene.busy(pool, 31)
    beside_s = enough_s()
    refused = refusal(0.999 * beside_s)
    assert refused is not None
    assert "others were refused before it" in refused.message
    assert "routing.admission" in refused.message
    assert refusal(0.999 * beside_s, "first") is None
    assert enough_s() < 0.999 * beside_s  # nobody stands before a newcomer now


async def test_a_tenants_flood_keeps_nobody_else_from_being_admitted(scene: Scene) -> None:
    """They have their turns before it is through, and whoever sent it has not."""
    for pool in scene.pools:
        told = replace(
            news(pool, 200, each=ONE), stage=ADD, number=10**6, tenants={tenant_hint("many"): Part(ONE * 200, 200.0)}
        )
        scene.table.heard(pool_key("app", pool), told, time.monotonic())
    visits, deadline = [Visit(ADD, ONE)], time.time() + 1.0
    scene.client.admit(visits, deadline=deadline, tenant="few")
    with pytest.raises(QueueFull):
        scene.client.admit(visits, deadline=deadline, tenant="many")
    few_s, many_s = scene.client.forecast(visits, tenant="few"), scene.client.forecast(visits, tenant="many")
    assert few_s is not None
    assert many_s is not None
    assert few_s < 0.2 * many_s


async def test_what_this_process_has_sent_is_known_by_tenant_too(scene: Scene) -> None:
    for pool in scene.pools:
        scene.busy(pool, 0)
    now, many = time.monotonic(), tenant_hint("many")
    sent = [
        scene.table.sent(ADD, pool_key("app", pool), pool, ONE, now, tenant=many) for pool in scene.pools for _ in range(100)
    ]
    visits = [Visit(ADD, ONE)]
    few_s, many_s = scene.client.forecast(visits, tenant="few"), scene.client.forecast(visits, tenant="many")
    assert few_s is not None
    assert many_s is not None
    assert few_s < 0.2 * many_s
    for one in sent:
        scene.table.ended(one)
    assert scene.client.forecast(visits, tenant="many") == scene.client.forecast(visits, tenant="few")


async def test_all_stages_that_a_request_visits_must_end_in_time_together(scene: Scene) -> None:
    for pool in scene.pools:
        for stage in (ADD, COUNT):
            scene.busy(pool, 100, stage)
    ranked = scene.table.ranked(ADD, [pool_key("app", pool) for pool in scene.pools], Wanted(ONE), time.monotonic())
    assert ranked is not None
    one_s = forecast([ranked]).quantile_s
    scene.client.admit([Visit(ADD, ONE)], deadline=time.time() + 1.5 * one_s)
    with pytest.raises(QueueFull):
        scene.client.admit([Visit(ADD, ONE), Visit(COUNT, ONE)], deadline=time.time() + 1.5 * one_s)


async def test_where_nothing_is_refused_everything_is_admitted() -> None:
    scene = Scene(admission=None)
    for pool in scene.pools:
        scene.busy(pool, 100)
    scene.client.admit([Visit(ADD, ONE)], deadline=time.time() + 0.01)
    await scene.close()


async def test_while_no_speed_is_known_nobody_is_refused_for_it_and_no_seconds_are_told(scene: Scene) -> None:
    """Of much work whose unit is tiny, such as pixels, and one item that waits."""
    much = Work(1e6)
    for pool in scene.pools:
        told = replace(news(pool, 1, each=much), stage=ADD, number=10**6, speed=None)
        scene.table.heard(pool_key("app", pool), told, time.monotonic())
    scene.client.admit([Visit(ADD, much)], deadline=time.time() + 60)
    receipt = (await scene.client.call(ADD, Item("r", Add(1, 2), work=much, deadline=time.time() + 60))).receipt
    assert (receipt.expected_s, receipt.runner_up_s) == (None, None)
    assert "nobody knows its speed yet" in receipt.reasons


async def test_a_stage_of_whose_replicas_nothing_is_known_is_admitted() -> None:
    scene = Scene()
    scene.client.admit([Visit(ADD, ONE)], deadline=time.time() + 0.01)
    await scene.close()
