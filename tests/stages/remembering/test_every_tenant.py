"""Every kind of value, in slots, in memory and in Redis: its tenant finds it, another one does not, even where both ask under the same
names. Names differ between tenants besides (`tests/pipelines/test_tenants_apart.py`)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cache.redis_server import RedisServer
from tests.stages.remembering.kinds import KINDS, ONE_SHOT, PROMPT_PAGES, Models, Replica, assert_same, caches

pytestmark = [pytest.mark.models, pytest.mark.timeout(120)]

PAGES = PROMPT_PAGES + 1
NOTHING = dict.fromkeys(KINDS, "miss")


@pytest.fixture
async def replicas(models: Models, tmp_path: Path) -> AsyncIterator[tuple[Replica, Replica]]:
    """The first one remembers in memory, too."""
    server = RedisServer(tmp_path).start()
    both = Replica(models, server.url, memory_bytes=2**24), Replica(models, server.url)
    yield both
    await asyncio.gather(*(replica.host.close() for replica in both))
    server.kill()


async def test_where_it_was_made_it_is_found_near_and_another_tenant_finds_nothing_there(
    replicas: tuple[Replica, Replica],
) -> None:
    here, _ = replicas
    made = await here.ask_all(salt="ada")
    await here.written(PAGES)
    assert caches(made) == NOTHING
    again = await here.ask_all(salt="ada")
    assert caches(again) == {**dict.fromkeys(ONE_SHOT, "memory"), "kv_page": "slots", "step_state": "memory"}
    theirs = await here.ask_all(salt="bob")
    assert caches(theirs) == NOTHING
    assert_same(theirs, made)
    assert_same(again, made)


async def test_in_redis_its_tenant_finds_it_and_another_does_not(replicas: tuple[Replica, Replica]) -> None:
    here, elsewhere = replicas
    made = await here.ask_all(salt="ada")
    await here.written(PAGES)
    theirs = await elsewhere.ask_all(salt="bob")
    assert caches(theirs) == NOTHING
    assert_same(theirs, made)


async def test_what_another_tenant_has_overwritten_under_the_same_names_is_made_again(
    replicas: tuple[Replica, Replica],
) -> None:
    """Results of the one stand where the other's stood: neither is believed by the other."""
    here, elsewhere = replicas
    made = await here.ask_all(salt="ada")
    await here.written(PAGES)
    await here.ask_all(salt="bob")
    await here.written(2 * PAGES)
    found = await elsewhere.ask_all(salt="ada")
    assert {kind: caches(found)[kind] for kind in ONE_SHOT} == dict.fromkeys(ONE_SHOT, "miss")
    assert_same(found, made)


async def test_what_two_tenants_want_at_once_is_made_for_each(replicas: tuple[Replica, Replica]) -> None:
    """A claim of the one delays the other, where they ask under the same names, and is no answer."""
    here, elsewhere = replicas
    answers = await asyncio.gather(here.ask_all(salt="ada"), elsewhere.ask_all(salt="bob"))
    assert [caches(found) for found in answers] == [NOTHING, NOTHING]
    assert_same(*answers)
