"""While a cluster is updated, replicas of an earlier and of a later version answer beside those of this one: what they are sent and tell is
understood, or asked of another, and what they remember is the same. Real processes of each version, on real Serve, with real Redis."""

import math
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve

import stages.contract.item
from pipelines.cluster.pieces import MAX_BYTES
from pipelines.cluster.serve_client import ServeStageClient
from pipelines.cluster.stage_deployment import router_config
from stages.contract.errors import InvalidRequest
from stages.contract.item import Item, StageReceipt, StreamEnd
from stages.llm.messages import Generate, GenerationEnd, Sampling, TokenDelta
from stages.vision.messages import EmbedInput, EncodeImage
from tests.cache.redis_server import RedisServer
from tests.cluster.other_versions import EARLIER, LATER, STRANGE, copied, environment
from tests.cluster.server import eventually
from tests.cluster.test_another_node import PROMPT, STAGE, Replica
from tests.pipelines.stages import BAD, embedder, vision_encoder
from tests.stages.llm.tiny_models import save_decoder

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

WORK = Generate(PROMPT, Sampling(max_tokens=6, temperature=0.0, logit_bias={2: -100.0}))
NUM_PAGES = 5  # of the prompt and the answer, each whole
CALLED, LARGE = "m.embedder", "m.large"
VERSIONS = {"now": None, "earlier": EARLIER, "later": LATER, "strange": STRANGE}


class Told(Replica):
    """Says where its code is. Hosts a stage that is called, too."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        super().__init__(folder, redis_url)
        self.host.add(CALLED, embedder())
        self.host.add(LARGE, vision_encoder())

    async def code(self) -> str:
        return stages.contract.item.__file__


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"), tcp=True).start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[dict[str, Any]]:
    """Handles of a pool of each version."""
    folder = save_decoder("llama", tmp_path_factory.mktemp("llama"))
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="Disabled")
        handles = {}
        for name, changes in VERSIONS.items():
            options: dict[str, Any] = {"num_cpus": 0.1}
            if changes is not None:
                options["runtime_env"] = {"env_vars": environment(copied(tmp_path_factory.mktemp(name), changes))}
            deployment = serve.deployment(Told).options(
                name=name, graceful_shutdown_timeout_s=1, request_router_config=router_config(), ray_actor_options=options
            )
            handles[name] = serve.run(deployment.bind(folder, redis.url), name=name, route_prefix=None)
            there = str(handles[name].code.remote().result())
            assert (Path(there) == Path(stages.contract.item.__file__)) == (name == "now"), there
        yield handles
    finally:
        serve.shutdown()
        ray.shutdown()


def client(pools: dict[str, Any], *names: str) -> ServeStageClient:
    return ServeStageClient({name: pools[name] for name in names}, {STAGE: list(names)})


async def ask(client: ServeStageClient, salt: str = "", *, pace_s: float = 0.0) -> tuple[str, int, StageReceipt]:
    """What it answers, how many tokens of the prompt were not computed, and the receipt."""
    item = Item("r", replace(WORK, salt=salt), salt=salt, tenant=salt, pace_s=pace_s)
    async with aclosing(client.stream(STAGE, item)) as batches:
        events: list[Any] = [event async for batch in batches for event in batch]
    (end,) = (event for event in events if isinstance(event, GenerationEnd))
    (last,) = (event for event in events if isinstance(event, StreamEnd))
    return "".join(event.text for event in events if isinstance(event, TokenDelta)), end.cached_tokens, last.receipt


@pytest.mark.parametrize("other", ["earlier", "later"])
async def test_another_version_answers_the_same_and_remembers_it_under_the_same_names(
    pools: dict[str, Any], redis: RedisServer, other: str
) -> None:
    """So that either uses what the other has made, where fetching it is expected to be faster than making it."""
    answers, names = [], []
    for version in ("now", other):
        redis.client().flushall()
        said, num_cached, receipt = await ask(client(pools, version), salt=other)
        assert (num_cached, receipt.cache, receipt.pool) == (0, "miss", version)
        eventually(lambda: len(pages(redis)) >= NUM_PAGES, "the pages are written")
        answers.append(said)
        names.append(pages(redis))
    assert answers[0] == answers[1]
    assert names[0] == names[1]


def pages(redis: RedisServer) -> set[bytes]:
    return set(redis.client().scan_iter())


@pytest.mark.parametrize("version", ["now", "earlier", "later"])
async def test_what_is_answered_at_once_is_answered_by_each_version(pools: dict[str, Any], version: str) -> None:
    """An earlier one knows no answers in pieces, and is called as it knows it."""
    calling = ServeStageClient({version: pools[version]}, {CALLED: [version]})
    for text in ("one", "three"):
        reply = await calling.call(CALLED, Item("r", EmbedInput(text=text)))
        assert (int(reply.value.num_tokens), reply.receipt.pool) == (len(text), version)
    with pytest.raises(InvalidRequest, match="it is no image"):
        await calling.call(CALLED, Item("r", EmbedInput(image=BAD)))


@pytest.mark.parametrize("version", ["now", "earlier"])
async def test_what_is_large_arrives_whole(pools: dict[str, Any], version: str) -> None:
    """By gRPC at first, in pieces; then by way of Ray's objects."""
    calling = ServeStageClient({version: pools[version]}, {LARGE: [version]})
    for data in (b"a", b"ab", b"abc"):
        reply = await calling.call(LARGE, Item("r", EncodeImage(data, max_pixels=1)))
        assert reply.value.features.nbytes > MAX_BYTES
        assert (reply.value.features == len(data)).all()


async def test_what_one_version_tells_so_that_nobody_here_can_read_it_is_asked_of_another(pools: dict[str, Any]) -> None:
    """Of an answer that is told as a whole; what was told of one in part goes on elsewhere (`tests/pipelines/test_going_on.py`)."""
    both = client(pools, "strange", "now")
    expected, *_ = await ask(client(pools, "now"))
    told = [await ask(both, pace_s=math.inf) for _ in range(6)]
    assert [said for said, *_ in told] == [expected] * 6
    assert {receipt.pool for *_, receipt in told} == {"now"}
