"""One stage in two pools, on real Serve: when a whole pool dies with work in hand, the other does it. Replicas of the product's own class,
with a small encoder that notes what it has in hand and waits for a file of the test's."""

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve

from pipelines.cluster.replica import StageReplica
from pipelines.cluster.serve_client import ServeStageClient
from pipelines.cluster.stage_deployment import router_config
from pipelines.settings.serve.replica_spec import CacheSpec, ReplicaSpec
from stages.contract.item import Item
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.work import Work
from tests.stages.fakes import Add, Adder, Sum, Total

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

STAGE = "m.encoder"
POOLS = ("near", "far")


class Slow(Adder):
    """Notes pool, process and what it makes in `folder`/made; goes on once there is `folder`/open."""

    def __init__(self, pool: str, folder: Path) -> None:
        super().__init__()
        self._pool, self._folder = pool, folder

    def run(self, batch: Sequence[Sum]) -> Sequence[Total]:
        with (self._folder / "made").open("a") as made:
            made.write("".join(f"{self._pool} {os.getpid()} {item.total}\n" for item in batch))
        while not (self._folder / "open").exists():
            threading.Event().wait(0.02)
        return super().run(batch)


class Replica(StageReplica):
    def __init__(self, pool: str, folder: Path) -> None:
        super().__init__(ReplicaSpec(pool, (), CacheSpec(memory_bytes=2**20), torch_threads=1))
        self.host.add(STAGE, Slow(pool, folder), batch=BatchLimits(4), queue=QueueLimits(128))

    async def __del__(self) -> None:
        await self.close()


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ServeStageClient]]:
    folder = tmp_path_factory.mktemp("made")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="Disabled")
        handles = {pool: deployed(pool, folder) for pool in POOLS}
        yield folder, ServeStageClient(handles, {STAGE: POOLS})
    finally:
        serve.shutdown()
        ray.shutdown()


def deployed(pool: str, folder: Path) -> Any:
    options: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0.1}, "graceful_shutdown_timeout_s": 1}
    deployment = serve.deployment(Replica).options(
        name=pool, max_ongoing_requests=128, request_router_config=router_config(), **options
    )
    return serve.run(deployment.bind(pool, folder), name=pool, route_prefix=None)


def made(folder: Path) -> list[tuple[str, int, int]]:
    """Pool, process and total, in order."""
    path = folder / "made"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(pool, int(pid), int(total)) for pool, pid, total in lines]


async def test_a_pool_that_dies_with_work_in_hand_fails_no_request(pools: tuple[Path, ServeStageClient]) -> None:
    folder, client = pools
    calls = [
        asyncio.create_task(client.call(STAGE, Item(f"r{number}", Add(1, 99 + number), work=Work(1.0))))
        for number in range(24)
    ]
    while {pool for pool, _, _ in made(folder)} != set(POOLS):  # noqa: ASYNC110  (other processes write)
        await asyncio.sleep(0.02)
    lost = {total for pool, _, total in made(folder) if pool == "far"}
    os.kill(next(pid for pool, pid, _ in made(folder) if pool == "far"), 9)
    (folder / "open").touch()
    replies = await asyncio.gather(*calls)
    assert [int(reply.value.total) for reply in replies] == list(range(100, 124))
    times = Counter(total for _, _, total in made(folder))
    assert {total for total, count in times.items() if count > 1} <= lost  # nobody else's was made again
    assert len(times) == 24
