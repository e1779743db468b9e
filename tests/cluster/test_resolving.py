"""Stages that call each other over real Serve: no circle of waiting, nobody's cancellation or death is another's, and who waits
blocks nobody. Replicas of the product's own class, with small stages that wait for a file of the test's."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import serve

from pipelines.cluster.replica import StageReplica
from pipelines.cluster.serve_client import ServeStageClient
from pipelines.settings.serve.replica_spec import CacheSpec, ReplicaSpec
from stages.contract.item import InputReceipts, Item, StageReceipt
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.recipe import Recipe
from tests.stages.fakes import Add, Adder, Countdown, CountFrom, Sum, Total

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SLOW, QUICK = Add(7), Add(1)


class Patient(Adder):
    """Notes every batch in `folder`; one with a 7 in it goes on once the test has opened that."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def run(self, batch: Sequence[Sum]) -> Sequence[Total]:
        with (self._folder / "batches").open("a") as batches:
            batches.write(" ".join(str(item.total) for item in batch) + "\n")
        while any(item.total == 7 for item in batch) and not (self._folder / "open").exists():
            threading.Event().wait(0.02)
        return super().run(batch)


class Replica(StageReplica):
    """`made`: stages by name; `elsewhere`: deployments by the stages that they host."""

    def __init__(self, name: str, made: Mapping[str, Callable[[], Any]], elsewhere: Mapping[str, str]) -> None:
        handles = {deployment: serve.get_deployment_handle(deployment, deployment) for deployment in elsewhere.values()}
        spec = ReplicaSpec(name, (), CacheSpec(memory_bytes=2**20), torch_threads=1)
        super().__init__(spec, None, ServeStageClient(handles, {stage: [at] for stage, at in elsewhere.items()}))
        for stage, make in made.items():
            self.host.add(stage, make(), batch=BatchLimits(2), queue=QueueLimits(8))

    async def gauge(self, stage: str, name: str) -> float:
        return next(metrics.counters[name] for metrics in self.host.metrics() if metrics.stage == stage)

    async def __del__(self) -> None:
        await self.close()


@pytest.fixture(scope="module")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Two deployments that count, and one that encodes and decodes for them; and where that one writes."""
    folder = tmp_path_factory.mktemp("encoder")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="Disabled")
        handles = {"vae": deployed("vae", {"m.encoder": partial(Patient, folder), "m.decoder": Adder}, {}, 2)}
        for name in ("one", "two"):
            handles[name] = deployed(name, {f"{name}.count": Countdown}, {"m.encoder": "vae"}, 12)
        yield folder, handles
    finally:
        serve.shutdown()
        ray.shutdown()


class Scene:
    """`test`: in every name, since what another test had made is remembered."""

    def __init__(self, test: str, folder: Path, handles: dict[str, Any]) -> None:
        self.test, self.folder, self.handles = test, folder, handles
        stages = {"m.encoder": ["vae"], "m.decoder": ["vae"], "one.count": ["one"], "two.count": ["two"]}
        self.client = ServeStageClient(self.handles, stages)
        for left in folder.iterdir():
            left.unlink()

    def slow(self, name: str = "slow") -> Recipe[Total]:
        return Recipe(f"{self.test} {name}", "m.encoder", SLOW)

    def open(self) -> None:
        (self.folder / "open").touch()

    def batches(self) -> list[str]:
        path = self.folder / "batches"
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def count(self, name: str, *needs: Recipe[Total]) -> "asyncio.Task[list[object]]":
        return asyncio.create_task(self._count(f"{name}.count", Item("r", CountFrom(2, plus=needs))))

    async def _count(self, stage: str, item: Item[CountFrom]) -> list[object]:
        async with aclosing(self.client.stream(stage, item)) as batches:
            return [event async for events in batches for event in events]

    async def until(self, name: str, waiting: int) -> None:
        """So many wait for inputs there."""
        gauge = self.handles[name].options(method_name="gauge")
        while await gauge.remote(f"{name}.count", "waiting_for_inputs") != waiting:  # noqa: ASYNC110  (another process counts)
            await asyncio.sleep(0.05)

    async def encoding(self) -> None:
        while "7" not in self.batches():  # noqa: ASYNC110  (another process writes)
            await asyncio.sleep(0.05)


def deployed(name: str, made: Mapping[str, Callable[[], Any]], elsewhere: Mapping[str, str], max_ongoing: int) -> Any:
    options: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0.1}, "graceful_shutdown_timeout_s": 1}
    deployment = serve.deployment(Replica).options(name=name, max_ongoing_requests=max_ongoing, **options)
    return serve.run(deployment.bind(name, made, elsewhere), name=name, route_prefix=None)


@pytest.fixture
async def scene(request: pytest.FixtureRequest, deployments: tuple[Path, dict[str, Any]]) -> AsyncIterator[Scene]:
    scene = Scene(request.node.name, *deployments)
    yield scene
    scene.open()


def counted(events: Sequence[object]) -> list[object]:
    return [event for event in events if isinstance(event, int)]


def made_for(events: Sequence[object]) -> list[StageReceipt]:
    return [receipt for event in events if isinstance(event, InputReceipts) for receipt in event.receipts]


async def test_what_waits_for_an_encode_never_waits_for_a_decode_that_waits_for_it(scene: Scene) -> None:
    """The encoder's deployment has two places; six requests need both of its halves, one after the other."""

    async def edit(index: int) -> int:
        await scene.count("one", Recipe(f"n{index}", "m.encoder", QUICK))
        decoded = await scene.client.call("m.decoder", Item("r", Add(index)))
        return int(decoded.value.total)

    assert await asyncio.gather(*(edit(index) for index in range(6))) == list(range(6))


async def test_a_leader_that_is_cancelled_fails_no_follower_here_or_elsewhere(scene: Scene) -> None:
    leader = scene.count("one", scene.slow())
    await scene.encoding()
    followers = [scene.count("one", scene.slow()), scene.count("two", scene.slow())]
    await asyncio.gather(scene.until("one", 2), scene.until("two", 1))
    leader.cancel()
    await scene.until("one", 1)
    scene.open()
    answers = await asyncio.gather(*followers)
    assert [counted(events) for events in answers] == [[8, 7, 6, 5, 4, 3, 2, 1, 0]] * 2
    assert scene.batches() == ["7"]
    assert {receipt.stage for events in answers for receipt in made_for(events)} == {"m.encoder"}


async def test_a_leader_whose_replica_dies_fails_no_follower_elsewhere(scene: Scene) -> None:
    leader = scene.count("one", scene.slow())
    await scene.encoding()
    follower = scene.count("two", scene.slow())
    await scene.until("two", 1)
    os.kill(process_of("one"), 9)
    scene.open()
    assert counted(await follower) == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert counted(await leader) == [8, 7, 6, 5, 4, 3, 2, 1, 0]  # begun anew, nothing was shown yet
    assert scene.batches() == ["7"]


async def test_who_waits_for_a_slow_encoder_blocks_nobody_who_needs_none(scene: Scene) -> None:
    waiting = [scene.count("one", scene.slow(f"{index}")) for index in range(8)]
    await scene.until("one", 8)
    assert await scene.handles["one"].options(method_name="record_autoscaling_stats").remote() == {"load": 0.0}
    others = await asyncio.gather(*(scene.count("one") for _ in range(8)))  # as many as may wait there, should none have begun
    assert [counted(events) for events in others] == [[1, 0]] * 8
    assert not any(one.done() for one in waiting)
    scene.open()
    assert [counted(events) for events in await asyncio.gather(*waiting)] == [[8, 7, 6, 5, 4, 3, 2, 1, 0]] * 8


def process_of(deployment: str) -> int:
    title = f"ServeReplica:{deployment}:{deployment}"
    return next(
        process.pid for process in psutil.process_iter(["cmdline"]) if title in " ".join(process.info["cmdline"] or [])
    )
