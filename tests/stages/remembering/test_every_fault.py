"""Every fault of Redis meets every kind of value: whoever asks is answered as ever, nothing that is not sound is believed, and once
the fault is over all is remembered again. What a served Triptych does about them is in `tests/cluster/remembering`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

from cache.claims import MARK
from cache.codec import describe, encode
from cache.redis.redis_connection import Patience
from pipelines.settings.schema.remembering import KINDS as KINDS_OF_THE_CONFIGURATION
from tests.cache.redis_server import RedisServer
from tests.cache.slow_line import SlowLine
from tests.stages.remembering.kinds import (
    HURRIED,
    KINDS,
    NUM_VALUES,
    PATIENT,
    PROMPT_PAGES,
    Models,
    Replica,
    assert_same,
    caches,
)

pytestmark = [pytest.mark.models, pytest.mark.timeout(120)]

SALT = "ada"
TAKEN_FOR_A_CLAIM_S = 6.0
"""Time of who asks where a claim stands that nobody keeps, or nothing does: that is waited for for a while, by how much time there is."""
PAGES = PROMPT_PAGES + 1


class World:
    """A Redis, and replicas that share it; one of them has been asked for everything."""

    def __init__(self, models: Models, folder: Path) -> None:
        self._models = models
        self.server = RedisServer(folder).start()
        self.line = SlowLine(folder / "s.sock")
        self.replicas: list[Replica] = []

    def replica(self, patience: Patience = PATIENT) -> Replica:
        self.replicas.append(Replica(self._models, self.line.url, patience=patience))
        return self.replicas[-1]

    def rewrite(self, change: Callable[[bytes, bytes], bytes | None]) -> int:
        """Every value; None: it is gone. How many there were."""
        with self.server.client() as client:
            keys = list(client.scan_iter(count=1000))
            for key in keys:
                data = client.get(key)
                changed = change(key, data) if isinstance(data, bytes) else None
                client.delete(key) if changed is None else client.set(key, changed)
        return len(keys)

    def configure(self, **settings: str) -> None:
        with self.server.client() as client:
            for name, value in settings.items():
                client.config_set(name.replace("_", "-"), value)

    async def close(self) -> None:
        self.line.recover()
        await asyncio.gather(*(replica.host.close() for replica in self.replicas))
        self.line.close()
        self.server.kill()


@pytest.fixture
async def world(models: Models, tmp_path: Path) -> AsyncIterator[World]:
    world = World(models, tmp_path)
    yield world
    await world.close()


def flipped(_: bytes, data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def cut(_: bytes, data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def emptied(_: bytes, data: bytes) -> bytes:
    return b""


def lengthened(_: bytes, data: bytes) -> bytes:
    return data + data


def strange(_: bytes, data: bytes) -> bytes:
    """No bytes of ours."""
    return b"\x80\x04K*." * 100  # what unpickles as a number


def forged(_: bytes, data: bytes) -> bytes:
    """Sound in every way, but that whoever wrote it does not know the tenant's secret."""
    return _rewritten(data, "a guess", keep_names=True)


def of_another_kind(_: bytes, data: bytes) -> bytes:
    """Under the right seal, but no such result."""
    return _rewritten(data, SALT, keep_names=False)


def infinite(_: bytes, data: bytes) -> bytes:
    """Under the right seal, with what is no number."""
    told = describe(data)
    return encode(told.key, {"features": np.array([np.inf], np.float32)}, kind=told.kind, seal=SALT)


def _rewritten(data: bytes, seal: str, *, keep_names: bool) -> bytes:
    told = describe(data)
    arrays = {name if keep_names else f"other_{name}": np.ones(shape, dtype) for name, dtype, shape in told.arrays}
    return encode(told.key, arrays, kind=told.kind, seal=seal)


DAMAGES = (flipped, cut, emptied, lengthened, strange, forged, of_another_kind, infinite)
COUNTED = frozenset(DAMAGES) - {emptied, of_another_kind}
"""Emptied is not there at all; of another kind is sound, and forgotten where results are known."""


def test_every_kind_of_value_is_met() -> None:
    assert frozenset(KINDS_OF_THE_CONFIGURATION) == KINDS


async def test_without_a_fault_another_replica_makes_nothing(world: World) -> None:
    first, second = world.replica(), world.replica()
    made = await first.ask_all()
    assert caches(made) == dict.fromkeys(KINDS, "miss")
    await first.written(PAGES)
    found = await second.ask_all()
    assert caches(found) == dict.fromkeys(KINDS, "redis")
    assert_same(found, made)


@contextmanager
def killed(world: World) -> Iterator[None]:
    world.server.kill()
    yield
    world.server.start()


@contextmanager
def frozen(world: World) -> Iterator[None]:
    world.server.freeze()
    yield
    world.server.thaw()


@contextmanager
def slow(world: World) -> Iterator[None]:
    world.line.slow_down()
    yield
    world.line.recover()


@contextmanager
def flushed(world: World) -> Iterator[None]:
    with world.server.client() as client:
        client.flushall()
    yield


@contextmanager
def restarted(world: World) -> Iterator[None]:
    world.server.kill()
    world.server.start()
    yield


@pytest.mark.parametrize("fault", [killed, frozen, slow, flushed, restarted])
async def test_what_can_not_be_had_is_made_and_all_is_remembered_again_afterwards(
    world: World, fault: Callable[[World], AbstractContextManager[None]]
) -> None:
    first, second, third = (world.replica(HURRIED) for _ in range(3))
    made = await first.ask_all()
    await first.written(PAGES)
    with fault(world):
        found = await second.ask_all()
        assert caches(found) == dict.fromkeys(KINDS, "miss")
        assert_same(found, made)
    await second.recovered()
    await second.ask_all(number=1)
    await second.written(2 * PAGES)
    await third.recovered()
    again = await third.ask_all(number=1)
    assert caches(again) == dict.fromkeys(KINDS, "redis")


async def test_a_full_server_keeps_nothing_and_fails_nobody(world: World) -> None:
    world.configure(maxmemory="1", maxmemory_policy="noeviction")
    first, second = world.replica(), world.replica()
    made = await first.ask_all()
    await first.written(PAGES)
    found = await second.ask_all()
    assert caches(found) == dict.fromkeys(KINDS, "miss")
    assert_same(found, made)
    assert all(first_tier.stats().errors > 0 for first_tier in first.tiers)
    world.configure(maxmemory="64mb", maxmemory_policy="allkeys-lfu")
    await second.ask_all(number=1)
    await second.written(2 * PAGES)
    assert caches(await first.ask_all(number=1)) == dict.fromkeys(KINDS, "redis")


@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_is_not_sound_is_made_again_and_what_is_made_replaces_it(
    world: World, damage: Callable[[bytes, bytes], bytes]
) -> None:
    first, second, third = world.replica(), world.replica(), world.replica()
    made = await first.ask_all()
    await first.written(PAGES)
    assert world.rewrite(damage) >= NUM_VALUES
    second.in_s = TAKEN_FOR_A_CLAIM_S if damage is emptied else second.in_s
    found = await second.ask_all()
    assert caches(found) == dict.fromkeys(KINDS, "miss")
    assert_same(found, made)
    if damage in COUNTED:
        counted = [tier.stats().kinds for tier in second.tiers]
        told = {kind: stats.corrupt for kinds in counted for kind, stats in kinds.items()}
        assert all(told.get(kind, 0) > 0 for kind in KINDS), told
    await second.written(PAGES)
    assert_same(await third.ask_all(), made)


async def test_values_of_another_tenant_under_ones_own_keys_are_believed_by_nobody(world: World) -> None:
    first, second = world.replica(), world.replica()
    mine = await first.ask_all(salt=SALT)
    await first.written(PAGES)
    with world.server.client() as client:
        own = {key: client.get(key) for key in client.scan_iter(count=1000)}
    theirs = await first.ask_all(number=1, salt="bob")
    assert caches(theirs) == dict.fromkeys(KINDS, "miss")
    await first.written(2 * PAGES)
    with world.server.client() as client:
        others = [
            data for key in client.scan_iter(count=1000) if key not in own and isinstance(data := client.get(key), bytes)
        ]
    strangers = iter(others * 2)
    world.rewrite(lambda key, data: next(strangers) if key in own else data)
    found = await second.ask_all(salt=SALT)
    assert caches(found) == dict.fromkeys(KINDS, "miss")
    assert_same(found, mine)


async def test_claims_that_nobody_keeps_delay_and_fail_nobody(world: World) -> None:
    first, second = world.replica(), world.replica()
    made = await first.ask_all()
    await first.written(PAGES)
    world.rewrite(lambda key, data: MARK + b"making\0nobody")
    second.in_s = TAKEN_FOR_A_CLAIM_S
    found = await second.ask_all()
    assert set(caches(found).values()) == {"miss"}
    assert_same(found, made)
