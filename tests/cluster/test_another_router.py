"""A pool of the product's own replicas, called by its own client, behind a router that Triptych doesn't ship
(`tests/pipelines/routing/taking_turns.py`), on real Serve."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray import serve
from ray.serve.config import RequestRouterConfig

from pipelines.cluster.serve_client import ServeStageClient
from tests.cache.redis_server import RedisServer
from tests.cluster.test_made_once import Scene, deployed
from tests.pipelines.routing.taking_turns import TakingTurns

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ServeStageClient]]:
    folder = tmp_path_factory.mktemp("turns")
    redis = RedisServer(tmp_path_factory.mktemp("redis")).start()
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="Disabled")
        yield folder, deployed("turns", folder, redis.url, 3, RequestRouterConfig(request_router_class=TakingTurns))
    finally:
        serve.shutdown()
        ray.shutdown()
        redis.kill()


async def test_its_replicas_take_turns_and_every_answer_is_right(pool: tuple[Path, ServeStageClient]) -> None:
    folder, client = pool
    scene = Scene(folder, {"turns": client})
    scene.open()
    for number in range(
        200, 212
    ):  # Serve gives a replica that it has never asked a tenth of a second, and then passes it over
        await scene.ask("turns", number)
    replies = [await scene.ask("turns", number) for number in range(12)]
    assert [int(reply.value.total) for reply in replies] == [scene.total + number for number in range(12)]
    told = [reply.receipt.replica for reply in replies]
    assert len(set(told)) == 3
    assert all(len(set(told[at : at + 3])) == 3 for at in range(0, 12, 3))
    at_once = await asyncio.gather(*(scene.ask("turns", 100 + number) for number in range(24)))
    assert len({reply.receipt.replica for reply in at_once}) == 3
