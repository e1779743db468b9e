"""What any stage client does for a pipeline: the same in one process and behind Ray Serve's handles."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest
from numpy.typing import NDArray

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from pipelines.client import LocalStageClient, Rest, SplitStageClient, StageClient
from pipelines.cluster.attempts import MAX_LOST
from pipelines.cluster.object_store import ObjectStore
from pipelines.cluster.serve_client import ServeStageClient
from stages.contract.blob import Blob
from stages.contract.errors import (
    Broken,
    ConfigurationError,
    DeadlineExceeded,
    InvalidRequest,
    QueueFull,
    ReplicaLost,
    StageFailed,
    TriptychError,
    Unavailable,
)
from stages.contract.item import InputReceipts, Item, ReplicaEnded, StreamEnd
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.recipe import Recipe
from stages.host.host import StageHost
from tests.pipelines.cluster.fake_serve import FakeDeployment
from tests.stages.fakes import Add, Adder, Countdown, CountFrom, Gate
from tests.stages.host.hosting import collect, once

ADD, COUNT = "m.adder", "m.count"


@dataclass(frozen=True)
class CountAbout(CountFrom):
    image: Blob | None = None


class Scene:
    """An adder and a countdown, reached as the parameter says. Their devices are open at first."""

    def __init__(self, kind: str, *, max_ongoing: int = 64, max_queued: int = 64) -> None:
        self.add_gate, self.count_gate = Gate(), Gate()
        self.deployment: FakeDeployment | None = None
        self.put: list[int] = []
        if kind != "serve":
            self._host = self.make()
            local = LocalStageClient(self._host)
            self.client: StageClient = local if kind == "local" else SplitStageClient([ADD], local, local)
        else:
            self.deployment = FakeDeployment(self.make, max_ongoing=max_ongoing, max_queued=max_queued)
            handles: Any = {"d": self.deployment.handle}
            self.client = ServeStageClient(handles, {ADD: ["d"], COUNT: ["d"]}, ObjectStore(self._store))

    def make(self) -> StageHost:
        self.adder, self.count = Adder(run_gate=self.add_gate), Countdown(slots=2, gate=self.count_gate)
        host = StageHost(cache=TieredCache([MemoryTier(2**20)]), replica="r1")
        host.add(ADD, self.adder, batch=BatchLimits(1), queue=QueueLimits(2))
        host.add(COUNT, self.count)
        return host

    def _store(self, array: NDArray[Any]) -> NDArray[Any]:
        self.put.append(array.nbytes)
        return array

    @property
    def host(self) -> StageHost:
        """The one that answers now."""
        return self._host if self.deployment is None else self.deployment.replica.host

    def stream(self, start: int, *, restartable: bool = False, in_s: float = float("inf")) -> Any:
        item = Item("r", CountFrom(start), deadline=time.time() + in_s)
        return self.client.stream(COUNT, item, again=lambda: Rest(item.payload, None) if restartable else None)

    async def close(self) -> None:
        self.add_gate.open()
        self.count_gate.open()
        await (self._host.close() if self.deployment is None else self.deployment.close())


@pytest.fixture(params=["local", "split", "serve"])
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    scene = Scene(request.param)
    yield scene
    await scene.close()


@pytest.fixture
async def served() -> AsyncIterator[Scene]:
    scene = Scene("serve")
    yield scene
    await scene.close()


async def total(client: StageClient, payload: Add, deadline: float = float("inf")) -> int:
    return int((await client.call(ADD, Item("r", payload, deadline=deadline))).value.total)


async def test_a_call_answers_with_a_typed_result_and_a_receipt(scene: Scene) -> None:
    reply = await scene.client.call(ADD, Item("r", Add(2, 3), "n"))
    assert int(reply.value.total) == 5
    assert (reply.receipt.stage, reply.receipt.replica, reply.receipt.cache) == (ADD, "r1", "miss")
    assert reply.origin is not None


async def test_a_stream_gives_all_events_in_order_its_inputs_receipts_first_and_its_own_last(scene: Scene) -> None:
    item = Item("r", CountFrom(3, plus=(Recipe("n", ADD, Add(2)),)))
    async with aclosing(scene.client.stream(COUNT, item)) as batches:
        first, *others = [batch async for batch in batches]
    made, *events, end = [*first, *(event for batch in others for event in batch)]
    assert events == [4, 3, 2, 1, 0]
    assert events[0] in first  # what only the host says is no cause to hand something over
    assert isinstance(made, InputReceipts)
    assert isinstance(end, StreamEnd)
    assert ([receipt.stage for receipt in made.receipts], end.receipt.stage) == ([ADD], COUNT)


@pytest.mark.parametrize(
    ("payload", "kind"), [(Add(0, 13), InvalidRequest), (Add(1001), InvalidRequest), (Add(13), StageFailed)]
)
async def test_a_calls_error_comes_as_it_was_raised(scene: Scene, payload: Add, kind: type[TriptychError]) -> None:
    with pytest.raises(kind) as raised:
        await total(scene.client, payload)
    if kind is InvalidRequest:
        assert raised.value.param == ("b" if payload.b else "a")


async def test_a_streams_error_comes_after_what_was_before_it(scene: Scene) -> None:
    stream = scene.client.stream(COUNT, Item("r", CountFrom(5, fails_at=2)))
    seen: list[object] = []
    while len(seen) < 3:
        seen.extend(await anext(stream))
    assert seen == [4, 3, 2]
    with pytest.raises(StageFailed, match="the row broke"):
        await anext(stream)


async def test_what_is_refused_is_refused_at_the_first_event(scene: Scene) -> None:
    with pytest.raises(InvalidRequest, match="101 is over 100"):
        await anext(scene.stream(101))


async def test_a_full_queue_says_when_to_come_back(scene: Scene) -> None:
    scene.add_gate.close()
    calls = [asyncio.create_task(total(scene.client, Add(1)))]
    await asyncio.to_thread(scene.add_gate.wait_for, 1)
    calls += [asyncio.create_task(total(scene.client, Add(n))) for n in (2, 3)]
    await once(lambda: scene.host.load()[ADD].queued == 2)
    with pytest.raises(QueueFull, match=r"queue\.max_items is 2") as refused:
        await total(scene.client, Add(4))
    assert (refused.value.retry_after_s or 0) >= 1
    scene.add_gate.open()
    assert await asyncio.gather(*calls) == [1, 2, 3]


async def test_cancelling_a_call_withdraws_it(scene: Scene) -> None:
    scene.add_gate.close()
    busy, gone = (asyncio.create_task(total(scene.client, Add(n))) for n in (1, 2))
    await asyncio.to_thread(scene.add_gate.wait_for, 1)
    await once(lambda: scene.host.load()[ADD].queued == 1)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    await once(lambda: scene.host.load()[ADD].queued == 0)
    scene.add_gate.open()
    assert await busy == 1
    assert scene.adder.batches == [[1]]


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_leaving_a_stream_frees_its_row(scene: Scene, how: str) -> None:
    scene.count_gate.close()
    scene.count_gate.let(1)
    stream = scene.stream(50)
    assert list(await anext(stream)) == [49]
    if how == "close":
        await stream.aclose()
    else:
        reading = asyncio.create_task(collect(stream))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    await once(lambda: scene.host.metrics()[1].counters["cancelled_total"] == 1)
    scene.count_gate.open()
    await once(lambda: len(scene.count.finished) == 1)
    assert len(scene.count.steps) < 50


async def test_a_call_ends_at_its_deadline(scene: Scene) -> None:
    scene.add_gate.close()
    with pytest.raises(DeadlineExceeded):
        await total(scene.client, Add(1), time.time() + 0.05)


async def test_a_stream_ends_at_its_deadline(scene: Scene) -> None:
    scene.count_gate.close()
    with pytest.raises(DeadlineExceeded):
        await collect(scene.stream(50, in_s=0.05))


async def test_a_stage_that_is_not_there_is_named(scene: Scene) -> None:
    with pytest.raises(ConfigurationError, match=r"'m\.nobody'"):
        await scene.client.call("m.nobody", Item("r", Add(1)))
    with pytest.raises(ConfigurationError, match=r"'m\.nobody'"):
        await collect(scene.client.stream("m.nobody", Item("r", CountFrom(1))))


# ---- what only a cluster can do to a request ----


async def test_a_call_survives_its_replicas_death(served: Scene) -> None:
    served.add_gate.close()
    call = asyncio.create_task(total(served.client, Add(2, 3)))
    await asyncio.to_thread(served.add_gate.wait_for, 1)
    deployment(served).kill()
    served.add_gate.open()
    assert await call == 5
    assert deployment(served).num_requests == 2


async def test_a_stream_that_has_shown_nothing_survives_its_replicas_death(served: Scene) -> None:
    served.count_gate.close()
    reading = asyncio.create_task(collect(served.stream(3)))
    await asyncio.to_thread(served.count_gate.wait_for, 1)
    deployment(served).kill()
    served.count_gate.open()
    assert (await reading)[:-1] == [2, 1, 0]


@pytest.mark.parametrize("restartable", [True, False])
async def test_a_stream_that_has_shown_something_starts_anew_only_where_that_is_bearable(
    served: Scene, restartable: bool
) -> None:
    served.count_gate.close()
    served.count_gate.let(1)
    async with aclosing(served.stream(3, restartable=restartable)) as stream:
        assert list(await anext(stream)) == [2]
        deployment(served).kill()
        served.count_gate.open()
        if restartable:
            ended, *others = (await collect(stream))[:-1]
            assert others == [2, 1, 0]
            assert isinstance(ended, ReplicaEnded)
            assert (ended.receipt.stage, ended.receipt.ended_early) == (COUNT, True)
        else:
            with pytest.raises(Unavailable):
                await collect(stream)


async def test_a_request_whose_replicas_die_one_after_another_is_given_up(served: Scene) -> None:
    served.add_gate.close()
    call = asyncio.create_task(total(served.client, Add(1)))
    for died in range(MAX_LOST):
        await asyncio.to_thread(served.add_gate.wait_for, died + 1)
        deployment(served).kill()
    with pytest.raises(ReplicaLost):
        await call


async def test_a_replica_that_only_refuses_is_asked_again_until_it_is_replaced(served: Scene) -> None:
    await served.host.close()
    call = asyncio.create_task(total(served.client, Add(2)))
    await once(lambda: deployment(served).num_requests > MAX_LOST)
    deployment(served).kill()
    assert await call == 2


async def test_a_broken_device_ends_a_call_there_and_it_runs_elsewhere(served: Scene) -> None:
    def broken() -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    served.adder.run = lambda batch: broken()  # type: ignore[method-assign]
    call = asyncio.create_task(total(served.client, Add(2)))
    await once(lambda: is_broken(served.host))
    deployment(served).kill()
    assert await call == 2


async def test_what_a_replica_said_of_its_own_broken_device_is_told_where_nothing_else_helps(served: Scene) -> None:
    class Breaks(Adder):
        def run(self, batch: Sequence[Any]) -> Any:
            raise RuntimeError("CUDA error: device-side assert triggered")

    served.host.add("m.broken", Breaks())
    client = ServeStageClient(handles(served), {"m.broken": ["d"]})
    with pytest.raises((Broken, DeadlineExceeded)):
        await client.call("m.broken", Item("r", Add(2), deadline=time.time() + 0.3))


async def test_every_replica_busy_and_the_queue_before_them_full_says_so() -> None:
    scene = Scene("serve", max_ongoing=1, max_queued=1)
    scene.add_gate.close()
    calls = [asyncio.create_task(total(scene.client, Add(n))) for n in (1, 2)]
    await asyncio.to_thread(scene.add_gate.wait_for, 1)
    with pytest.raises(QueueFull, match=r"deployments\.d\.max_queued_requests") as refused:
        await total(scene.client, Add(3))
    assert (refused.value.retry_after_s or 0) >= 1
    scene.add_gate.open()
    assert await asyncio.gather(*calls) == [1, 2]
    await scene.close()


async def test_large_bytes_are_given_to_the_cluster_once_for_all_choices_about_them(served: Scene) -> None:
    image = Blob(bytes(300_000))
    for index in range(3):
        item = Item(f"r:{index}", CountAbout(1, image=image))
        assert len(await collect(served.client.stream(COUNT, item))) == 2
    assert served.put == [300_000]


async def test_a_stage_behind_the_one_that_is_called_is_not_tried_again_by_its_caller(served: Scene) -> None:
    class Nobody:
        num_calls = 0

        async def call(self, stage: str, item: Item[Any]) -> Any:
            self.num_calls += 1
            raise Unavailable("its replicas died, one after another")

    nobody = Nobody()

    def make() -> StageHost:
        host = StageHost(elsewhere=nobody)
        host.add(COUNT, Countdown())
        return host

    alone = FakeDeployment(make)
    all_handles: dict[str, Any] = {"d": alone.handle}
    client = ServeStageClient(all_handles, {COUNT: ["d"]})
    with pytest.raises(Unavailable, match="one after another"):
        await collect(client.stream(COUNT, Item("r", CountFrom(1, plus=(Recipe("n", "m.elsewhere", Add(1)),)))))
    assert nobody.num_calls == 1
    await alone.close()


def deployment(scene: Scene) -> FakeDeployment:
    assert scene.deployment is not None
    return scene.deployment


def is_broken(host: StageHost) -> bool:
    try:
        host.check()
    except Unavailable:
        return True
    return False


def handles(scene: Scene) -> Any:
    return {"d": deployment(scene).handle}


async def test_a_stream_that_has_told_of_its_inputs_alone_is_begun_anew_elsewhere(served: Scene) -> None:
    assert served.deployment is not None
    served.count_gate.close()
    item = Item("r", CountFrom(1, plus=(Recipe("n", ADD, Add(2)),)))
    counting = asyncio.create_task(collect(served.client.stream(COUNT, item)))
    await asyncio.to_thread(served.count_gate.wait_for, 1)
    closing = asyncio.create_task(served.host.close())
    await once(lambda: served.deployment is not None and served.deployment.num_requests >= 2)  # told so, and tried again
    served.deployment.kill()
    served.count_gate.open()
    events = await counting
    assert [event for event in events if isinstance(event, int)] == [2, 1, 0]
    made = [receipt for event in events if isinstance(event, InputReceipts) for receipt in event.receipts]
    assert [receipt.stage for receipt in made] == [ADD, ADD]  # both were
    await closing
