"""From one process's slots over a real Redis into another's: the whole way of keys and values, with a tiny model."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cache.memory import MemoryTier
from cache.redis.redis_tier import RedisTier
from cache.tiered import TieredCache
from stages.checkpoints.checkpoint import Contents
from stages.contract.item import Item, StageReceipt, StreamEnd
from stages.host.host import StageHost
from stages.llm.llm import Llm
from stages.llm.messages import Generate, GenerationEnd, Sampling
from stages.llm.settings import LlmSettings
from tests.cache.redis_server import RedisServer
from tests.stages.host.hosting import collect, once
from tests.stages.llm.library.oracle import load

pytestmark = pytest.mark.models

PROMPT = tuple(range(10, 47))  # four pages, and five tokens


class Replica:
    """One process's host with a stage of its own. Without room in memory, so that all comes from Redis."""

    def __init__(self, url: str, stage: Llm) -> None:
        self.redis = RedisTier(url)
        self.host = StageHost(pages=TieredCache([MemoryTier(0), self.redis]))
        self.host.add("m.llm", stage, contents=Contents("", "w"))

    async def ask(self, prompt: tuple[int, ...] = PROMPT, salt: str = "") -> tuple[str, GenerationEnd, StageReceipt]:
        work = Generate(prompt, Sampling(max_tokens=6, temperature=0.0, logit_bias={2: -100.0}), salt=salt)
        events = await collect(self.host.stream("m.llm", Item("r", work, salt=salt)))
        (end,) = (event for event in events if isinstance(event, GenerationEnd))
        (last,) = (event for event in events if isinstance(event, StreamEnd))
        return "".join(getattr(event, "text", "") for event in events), end, last.receipt

    async def written(self, num_pages: int) -> None:
        await once(lambda: self.host.metrics()[0].counters["pages_exported_total"] >= num_pages)
        assert await asyncio.to_thread(self.redis.flush, 10.0)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def replicas(server: RedisServer, folder: Path) -> AsyncIterator[tuple[Replica, Replica]]:
    settings = LlmSettings(2, 128, 16, page_tokens=8)
    both = Replica(server.url, load(folder, settings)), Replica(server.url, load(folder, settings))
    yield both
    for replica in both:
        await replica.host.close()


async def test_another_process_goes_on_where_one_left_off_once_for_each_tenant(replicas: tuple[Replica, Replica]) -> None:
    first, second = replicas
    text, end, receipt = await first.ask(salt="ada")
    assert (end.cached_tokens, receipt.cache) == (0, "miss")
    await first.written(5)  # of the prompt, and one that the answer ends
    found, end, receipt = await second.ask(salt="ada")
    assert (found, end.cached_tokens, receipt.cache) == (text, 32, "redis")
    assert receipt.bytes_moved > 0
    _, end, receipt = await second.ask((*PROMPT[:30], 9, 9), salt="ada")
    assert (end.cached_tokens, receipt.cache) == (30, "slots")
    _, end, receipt = await second.ask(salt="bob")
    assert (end.cached_tokens, receipt.cache) == (0, "miss")
