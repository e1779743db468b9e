"""Pages that a replica on one node made are used by a replica on another: real Ray of two nodes, real Serve, a Redis that both reach, and a
small real language model in replicas of the product's own class."""

from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster.replica import StageReplica
from pipelines.cluster.serve_client import ServeStageClient
from pipelines.settings.serve.replica_spec import CacheSpec, RedisSpec, ReplicaSpec
from stages.checkpoints.checkpoint import Contents
from stages.contract.item import Item, StageReceipt, StreamEnd
from stages.llm.messages import Generate, GenerationEnd, Sampling
from stages.llm.settings import LlmSettings
from tests.cache.redis_server import RedisServer
from tests.cluster.live_cluster import nodes, ray_nodes
from tests.cluster.server import eventually
from tests.stages.llm.library.oracle import load
from tests.stages.llm.tiny_models import save_decoder

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

STAGE = "m.llm"
PROMPT = tuple(range(10, 47))  # four pages, and five tokens
SIDES = ("left", "right")


class Replica(StageReplica):
    """Without room in memory, so that all comes from Redis."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        pages = CacheSpec(memory_bytes=0, redis=RedisSpec(url=redis_url, in_runs=True))
        super().__init__(ReplicaSpec("llm", (), CacheSpec(memory_bytes=0), torch_threads=1, pages=pages))
        self.host.add(STAGE, load(folder, LlmSettings(2, 128, 16, page_tokens=8)), contents=Contents("", "w"))

    async def __del__(self) -> None:
        await self.close()


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, dict[str, ServeStageClient]]]:
    """One for each node's replica."""
    from ray import serve

    folder = save_decoder("llama", tmp_path_factory.mktemp("llama"))
    redis = RedisServer(tmp_path_factory.mktemp("redis"), tcp=True).start()
    try:
        with ray_nodes(*({"num_cpus": 2, "resources": {side: 1}} for side in SIDES)):
            made = {}
            for side in SIDES:
                options: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0.1, "resources": {side: 0.1}}}
                deployment = serve.deployment(Replica).options(name=side, graceful_shutdown_timeout_s=1, **options)
                handle = serve.run(deployment.bind(folder, redis.url), name=side, route_prefix=None)
                made[side] = ServeStageClient({side: handle}, {STAGE: [side]})
            yield redis, made
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


async def test_a_prompt_that_one_node_has_read_is_not_read_again_on_the_other(
    clients: tuple[RedisServer, dict[str, ServeStageClient]],
) -> None:
    redis, sides = clients
    assert len(nodes()) == 2
    said, num_cached, receipt = await ask(sides["left"], "ada")
    assert (num_cached, receipt.cache) == (0, "miss")
    eventually(lambda: len(list(redis.client().scan_iter())) >= 5, "the pages are written")
    found, num_cached, elsewhere = await ask(sides["right"], "ada")
    assert (found, num_cached, elsewhere.cache) == (said, 32, "redis")
    assert elsewhere.bytes_moved > 0
    assert elsewhere.replica != receipt.replica
    again, num_cached, theirs = await ask(sides["right"], "bob")
    assert (again, num_cached, theirs.cache) == (said, 0, "miss")
