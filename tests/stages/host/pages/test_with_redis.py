"""Pages over a real Redis: from one process's rows to another's, and what becomes of them when it dies or stops answering."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cache.memory import MemoryTier
from cache.redis.redis_tier import RedisTier
from cache.tiered import TieredCache
from stages.checkpoints.checkpoint import Contents
from stages.contract.item import Item
from stages.host.host import StageHost
from tests.cache.redis_server import RedisServer
from tests.stages.host.hosting import collect, once
from tests.stages.host.pages.spelling import TEXT, Spelled
from tests.stages.paged import Spell, Speller


class Replica:
    """One process's host. Without room in memory, so that all comes from Redis, unless `memory_bytes` says otherwise."""

    def __init__(self, url: str, *, memory_bytes: int = 0) -> None:
        self.redis = RedisTier(url)
        self.host = StageHost(pages=TieredCache([MemoryTier(memory_bytes), self.redis]))
        self.host.add("m.spell", Speller(), contents=Contents("", "w"))

    async def spell(self, text: str, salt: str = "") -> Spelled:
        return Spelled(await collect(self.host.stream("m.spell", Item("r", Spell(text, salt), salt=salt))))

    async def written(self, num_pages: int) -> None:
        await once(lambda: self.count("pages_exported_total") >= num_pages)
        assert await asyncio.to_thread(self.redis.flush, 10.0)

    def count(self, name: str) -> float:
        return self.host.metrics()[0].counters[name]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def replicas(server: RedisServer) -> AsyncIterator[tuple[Replica, Replica]]:
    both = Replica(server.url), Replica(server.url)
    yield both
    for replica in both:
        await replica.host.close()


async def test_another_process_goes_on_where_one_left_off(replicas: tuple[Replica, Replica]) -> None:
    first, second = replicas
    assert (await first.spell(TEXT)).outcome == (0, "miss", 0)
    await first.written(4)
    found = await second.spell(TEXT + "ij")
    assert (found.outcome, found.text) == ((8, "redis", 8), TEXT + "ij")


async def test_another_tenant_finds_nothing(replicas: tuple[Replica, Replica]) -> None:
    first, second = replicas
    await first.spell(TEXT, salt="ada")
    await first.written(4)
    assert (await second.spell(TEXT, salt="bob")).outcome == (0, "miss", 0)
    assert (await second.spell(TEXT + "i", salt="ada")).outcome == (8, "redis", 8)


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_without_redis_all_is_spelled(replicas: tuple[Replica, Replica], server: RedisServer, how: str) -> None:
    first, second = replicas
    await first.spell(TEXT)
    await first.written(4)
    getattr(server, how)()
    try:
        for _ in range(3):
            answer = await second.spell(TEXT)
            assert (answer.outcome, answer.text) == ((0, "miss", 0), TEXT)
        assert second.count("page_bytes_in_flight") == 0
    finally:
        if how == "freeze":
            server.thaw()
