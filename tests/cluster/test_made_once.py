"""One result for the whole cluster, on real Serve and a real Redis: replicas of the product's own class, with a small slow encoder that
notes every batch and waits for a file of the test's."""

import asyncio
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve
from ray.serve.config import RequestRouterConfig

from pipelines.cluster.replica import StageReplica
from pipelines.cluster.serve_client import ServeStageClient
from pipelines.cluster.stage_deployment import router_config
from pipelines.settings.serve.replica_spec import CacheSpec, RedisSpec, ReplicaSpec
from stages.contract.item import Item, Reply
from stages.contract.limits import BatchLimits, QueueLimits
from tests.cache.redis_server import RedisServer
from tests.stages.fakes import Add, Adder, Sum, Total

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

STAGE = "m.encoder"


class Slow(Adder):
    """Notes its process and what it makes in `folder`/made; goes on once there is `folder`/open."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def run(self, batch: Sequence[Sum]) -> Sequence[Total]:
        with (self._folder / "made").open("a") as made:
            made.write("".join(f"{os.getpid()} {item.total}\n" for item in batch))
        while not (self._folder / "open").exists():
            threading.Event().wait(0.02)
        return super().run(batch)


class Replica(StageReplica):
    def __init__(self, folder: Path, redis_url: str) -> None:
        super().__init__(
            ReplicaSpec("encoder", (), CacheSpec(memory_bytes=2**20, redis=RedisSpec(url=redis_url)), torch_threads=1)
        )
        self.host.add(STAGE, Slow(folder), batch=BatchLimits(4), queue=QueueLimits(128))
        self._folder = folder

    async def call(self, stage: str, item: Item[Any], to: object = None) -> Reply[Any]:
        """Notes in `folder`/asked what it is asked for."""
        with (self._folder / "asked").open("a") as asked:
            asked.write(f"{item.name}\n")
        return await super().call(stage, item, to)

    async def __del__(self) -> None:
        await self.close()


class Scene:
    """`names` are new in every test; everyone asked for a total of its own."""

    def __init__(self, folder: Path, clients: dict[str, ServeStageClient]) -> None:
        self.folder, self.clients = folder, clients
        self.total = int.from_bytes(os.urandom(3))

    def ask(self, deployment: str, number: int = 0) -> "asyncio.Task[Reply[Any]]":
        item = Item("r", Add(0, self.total + number), name=f"{self.total + number}")
        return asyncio.create_task(self.clients[deployment].call(STAGE, item))

    def open(self) -> None:
        (self.folder / "open").touch()

    def made(self, number: int = 0) -> list[int]:
        """The processes that made it, in order."""
        return [int(pid) for pid, total in map(str.split, self._noted("made")) if int(total) == self.total + number]

    def _noted(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    async def asked(self, times: int) -> None:
        """The replicas were, so often."""
        while self._noted("asked").count(f"{self.total}") < times:  # noqa: ASYNC110  (other processes write)
            await asyncio.sleep(0.02)

    async def making(self, times: int = 1) -> None:
        while len(self.made()) < times:  # noqa: ASYNC110  (another process writes)
            await asyncio.sleep(0.02)


def deployed(name: str, folder: Path, url: str, num_replicas: int, router: RequestRouterConfig) -> ServeStageClient:
    options: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0.1}, "graceful_shutdown_timeout_s": 1}
    deployment = serve.deployment(Replica).options(
        name=name, num_replicas=num_replicas, max_ongoing_requests=128, request_router_config=router, **options
    )
    handle = serve.run(deployment.bind(folder, url), name=name, route_prefix=None)
    return ServeStageClient({name: handle}, {STAGE: [name]})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, ServeStageClient]]]:
    """`pair` has two replicas behind Serve's own router, `named` behind ours, `left` and `right` one each: all make the same."""
    folder = tmp_path_factory.mktemp("made")
    redis = RedisServer(tmp_path_factory.mktemp("redis")).start()
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="Disabled")
        by_name = router_config()
        yield (
            folder,
            {
                name: deployed(name, folder, redis.url, num_replicas, router)
                for name, num_replicas, router in (
                    ("pair", 2, RequestRouterConfig()),
                    ("named", 2, by_name),
                    ("left", 1, RequestRouterConfig()),
                    ("right", 1, RequestRouterConfig()),
                )
            },
        )
    finally:
        serve.shutdown()
        ray.shutdown()
        redis.kill()


@pytest.fixture
def scene(cluster: tuple[Path, dict[str, ServeStageClient]]) -> Iterator[Scene]:
    folder, clients = cluster
    (folder / "open").unlink(missing_ok=True)
    scene = Scene(folder, clients)
    yield scene
    scene.open()


def totals(replies: Sequence[Reply[Any]]) -> set[int]:
    return {int(reply.value.total) for reply in replies}


async def test_sixty_four_at_once_on_two_replicas_are_made_once(scene: Scene) -> None:
    """Serve's own router spreads them over both, so only the claim keeps the second from making it."""
    calls = [scene.ask("pair") for _ in range(64)]
    await scene.making()
    await scene.asked(64)
    scene.open()
    replies = await asyncio.gather(*calls)
    assert totals(replies) == {scene.total}
    assert len(scene.made()) == 1
    assert len({reply.receipt.replica for reply in replies}) == 2
    assert {reply.receipt.cache for reply in replies} >= {"miss", "joined", "redis"}


async def test_whatever_is_asked_for_in_whatever_order_is_made_once(scene: Scene) -> None:
    scene.open()
    replies = await asyncio.gather(*(scene.ask("pair", number) for _ in range(4) for number in range(24)))
    assert totals(replies) == {scene.total + number for number in range(24)}
    assert [len(scene.made(number)) for number in range(24)] == [1] * 24


async def test_names_go_to_their_owners_and_both_replicas_own_some(scene: Scene) -> None:
    scene.open()
    replies = await asyncio.gather(*(scene.ask("named", number) for number in range(24) for _ in range(4)))
    by_name = [{reply.receipt.replica for reply in replies[4 * number : 4 * number + 4]} for number in range(24)]
    assert [len(replicas) for replicas in by_name] == [1] * 24
    assert len(set.union(*by_name)) == 2
    assert [len(scene.made(number)) for number in range(24)] == [1] * 24
    assert not any(reply.receipt.cache == "redis" for reply in replies)


async def test_a_leader_that_is_killed_delays_the_others_and_fails_none(scene: Scene) -> None:
    leader = scene.ask("left")
    await scene.making()
    followers = [scene.ask("right") for _ in range(8)]
    os.kill(scene.made()[0], 9)
    await scene.making(2)
    scene.open()
    assert totals(await asyncio.gather(*followers)) == {scene.total}
    assert len(scene.made()) == len(set(scene.made())) == 2
    assert totals([await leader]) == {scene.total}  # asked of the replica that took over


async def test_a_leader_that_is_cancelled_lets_another_replica_make_it(scene: Scene) -> None:
    leader = scene.ask("left")
    await scene.making()
    followers = [scene.ask("right") for _ in range(8)]
    leader.cancel()
    await scene.making(2)
    scene.open()
    assert totals(await asyncio.gather(*followers)) == {scene.total}
    assert len(set(scene.made())) == 2
