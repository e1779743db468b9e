"""Pages that a replica on one node made are used by a replica on another, and what a node did that is taken away is done on another: real
Ray of three nodes, real Serve, a Redis that all reach, and a small real language model in replicas of the product's own class."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.cluster.pieces import pieces
from pipelines.cluster.replica import StageReplica
from pipelines.cluster.serve_client import ServeStageClient
from pipelines.cluster.stage_deployment import router_config
from pipelines.settings.serve.replica_spec import CacheSpec, RedisSpec, ReplicaSpec
from stages.checkpoints.checkpoint import Contents
from stages.contract.item import Item, StageReceipt, StreamEnd
from stages.host.packed_item import PackedItem
from stages.llm.messages import Generate, GenerationEnd, Sampling
from stages.llm.settings import LlmSettings
from tests.cache.redis_server import RedisServer
from tests.cluster.live_cluster import nodes, ray_nodes, replicas
from tests.cluster.server import eventually
from tests.stages.llm.library.oracle import load
from tests.stages.llm.tiny_models import save_decoder

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

STAGE = "m.llm"
PROMPT = tuple(range(10, 47))  # four pages, and five tokens
SIDES = ("left", "right")
MOVABLE, LOST = "movable", "lost"
HEARD_OF_SOON = {"health_check_period_ms": 1000, "health_check_timeout_ms": 4000, "health_check_failure_threshold": 3}
NODES: tuple[dict[str, Any], ...] = (
    {"num_cpus": 2, "resources": {"left": 1}, "_system_config": HEARD_OF_SOON},
    {"num_cpus": 2, "resources": {"right": 1}},
    *[{"num_cpus": 2, "resources": {MOVABLE: 1}}] * 2,
    *[{"num_cpus": 2, "resources": {LOST: 1}}] * 2,
)


class Replica(StageReplica):
    """Without room in memory, so that all comes from Redis."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        pages = CacheSpec(memory_bytes=0, redis=RedisSpec(url=redis_url, in_runs=True))
        super().__init__(ReplicaSpec("llm", (), CacheSpec(memory_bytes=0), torch_threads=1, pages=pages))
        self.host.add(STAGE, load(folder, LlmSettings(2, 128, 16, page_tokens=8)), contents=Contents("", "w"))

    async def __del__(self) -> None:
        await self.close()


class Mute:
    """The first of its kind takes an item and never says a word."""

    def __init__(self, taken: Path) -> None:
        self._taken = taken

    async def stream(self, stage: str, item: PackedItem, to: object = None) -> AsyncIterator[bytes]:
        if not self._taken.exists():
            self._taken.touch()
            await asyncio.Event().wait()
        for piece in pieces(["done"]):
            yield piece


@dataclass(frozen=True)
class Scene:
    redis: RedisServer
    folder: Path

    def run(self, name: str, resource: str) -> ServeStageClient:
        """A client of a replica on a node that has this resource. Waits until it runs."""
        from ray import serve

        options: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0.1, "resources": {resource: 0.1}}}
        deployment = serve.deployment(Replica).options(name=name, graceful_shutdown_timeout_s=1, **options)
        handle = serve.run(deployment.bind(self.folder, self.redis.url), name=name, route_prefix=None)
        return ServeStageClient({name: handle}, {STAGE: [name]})


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = save_decoder("llama", tmp_path_factory.mktemp("llama"))
    redis = RedisServer(tmp_path_factory.mktemp("redis"), tcp=True).start()
    try:
        with ray_nodes(*NODES):
            yield Scene(redis, folder)
    finally:
        redis.kill()


async def ask(client: ServeStageClient, salt: str = "") -> tuple[Sequence[str], int, StageReceipt]:
    """What it answers, how many tokens of the prompt were not computed, and the receipt."""
    work = Generate(PROMPT, Sampling(max_tokens=6, temperature=0.0, logit_bias={2: -100.0}), salt=salt)
    events: list[Any] = []
    async with aclosing(client.stream(STAGE, Item("r", work, salt=salt, tenant=salt))) as batches:
        async for batch in batches:
            events += batch
    (end,) = (event for event in events if isinstance(event, GenerationEnd))
    (last,) = (event for event in events if isinstance(event, StreamEnd))
    return [event.text for event in events if hasattr(event, "text")], end.cached_tokens, last.receipt


async def test_a_prompt_that_one_node_has_read_is_not_read_again_on_the_other(scene: Scene) -> None:
    sides = {side: scene.run(side, side) for side in SIDES}
    assert len(nodes()) == 2
    said, num_cached, receipt = await ask(sides["left"], "ada")
    assert (num_cached, receipt.cache) == (0, "miss")
    eventually(lambda: len(list(scene.redis.client().scan_iter())) >= 5, "the pages are written")
    found, num_cached, elsewhere = await ask(sides["right"], "ada")
    assert (found, num_cached, elsewhere.cache) == (said, 32, "redis")
    assert elsewhere.bytes_moved > 0
    assert elsewhere.replica != receipt.replica
    again, num_cached, theirs = await ask(sides["right"], "bob")
    assert (again, num_cached, theirs.cache) == (said, 0, "miss")


async def test_the_work_of_a_node_that_is_drained_goes_elsewhere_first_and_nothing_fails(scene: Scene) -> None:
    """As before an upgrade, or when a spot machine is given notice."""
    client = scene.run("moving", MOVABLE)
    (before,) = running_on("moving")
    drained, answers = asyncio.Event(), []

    async def keep_asking() -> None:
        while not drained.is_set():
            said, *_ = await ask(client)
            answers.append(said)

    askers = [asyncio.create_task(keep_asking()) for _ in range(3)]
    await asyncio.to_thread(drain, before)
    await asyncio.to_thread(eventually, lambda: running_on("moving") not in ([], [before]), "a replica runs on the other node")
    await asyncio.to_thread(eventually, lambda: before not in running_on("moving"), "none is left on the one that goes")
    drained.set()
    await asyncio.gather(*askers)
    assert len({tuple(said) for said in answers}) == 1


async def test_a_node_that_freezes_without_a_word_fails_no_stream_that_waits_there(scene: Scene, tmp_path: Path) -> None:
    """Its connections stay open, and nothing comes by them."""
    from ray import serve

    taken = tmp_path / "taken"
    options: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0.1, "resources": {LOST: 0.1}}}
    deployment = serve.deployment(Mute).options(name=LOST, request_router_config=router_config(), **options)
    handle = serve.run(deployment.bind(taken), name=LOST, route_prefix=None)
    client = ServeStageClient({LOST: handle}, {STAGE: [LOST]})

    async def ask_it() -> Sequence[object]:
        return [event async for events in client.stream(STAGE, Item("r", None)) for event in events]

    asking = asyncio.create_task(ask_it())
    await asyncio.to_thread(eventually, taken.exists, "it was taken")
    ((_, replica),) = [found for found in replicas() if found[0] == LOST]
    with frozen(replica["node_id"], replica["pid"]):
        assert await asking == ["done"]
        assert replica["node_id"] not in nodes()


@contextmanager
def frozen(node: str, replica: int) -> Iterator[None]:
    """All that its replica and the rest of the cluster hear of this node."""
    raylets = [
        process for process in psutil.process_iter(["cmdline"]) if f"--node_id={node}" in (process.info["cmdline"] or ())
    ]
    stopped = [*raylets, psutil.Process(replica)]
    assert len(stopped) == 2
    for process in stopped:
        process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def running_on(deployment: str) -> Sequence[str]:
    """The nodes of its replicas, also of one that has yet to leave."""
    return [replica["node_id"] for name, replica in replicas() if name == deployment and replica["state"] != "STARTING"]


def drain(node: str) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    notice = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "notice", "--deadline-remaining-seconds", "120"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", address, "--node-id", node, *notice]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
