"""The Redis tier and values that are damaged, forged, or lack a part: missed, counted and deleted."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cache.codec import BFLOAT16, encode
from cache.redis.redis_tier import RedisTier, stored_as
from cache.tier import Label
from tests.cache.redis.opening import A, Open, put
from tests.cache.redis_server import RedisServer
from tests.cache.values import floats, same


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
        lambda data: b"\x80\x04K\x01.",
        lambda data: encode("another key", A),
        lambda data: encode("a", {"x": np.array([np.nan], np.float32)}),
        lambda data: encode("a", {"x": np.array([0x7F80], np.uint16).view(BFLOAT16)}),
        lambda data: encode("a", A, "a seal"),
        lambda data: data + bytes(2**24),
    ],
    ids=["cut off", "flipped bit", "pickle", "another key's", "NaN", "infinite", "another seal's", "endless"],
)
def test_a_damaged_value_is_missed_counted_and_deleted(
    server: RedisServer, open_tier: Open, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    server.start()
    tier = open_tier()
    put(tier)
    with server.client() as client:
        stored = client.get(stored_as("a"))
        assert isinstance(stored, bytes)
        client.set(stored_as("a"), damage(stored))
        assert tier.get_many(["a"]) == {}
        assert tier.flush(30)
        assert not client.exists(stored_as("a"))
    assert (tier.stats().corrupt, tier.stats().misses) == (1, 1)
    assert "damaged" in caplog.text
    put(tier)
    assert tier.get_many(["a"])


def test_a_key_of_another_redis_type_is_a_miss_and_an_error(server: RedisServer, open_tier: Open) -> None:
    server.start()
    tier = open_tier()
    with server.client() as client:
        client.lpush(stored_as("a"), "x")
    put(tier, "b")
    assert set(tier.get_many(["a", "b"])) == {"b"}
    assert (tier.stats().errors, tier.stats().misses) == (1, 1)


@pytest.mark.parametrize(
    "forged", [b"", encode("a", A), encode("a", A, "theirs")], ids=["empty", "unsealed", "another seal's"]
)
def test_who_can_write_to_redis_but_has_no_seal_is_not_believed(server: RedisServer, open_tier: Open, forged: bytes) -> None:
    server.start()
    tier, label = open_tier(), Label("words", "ours")
    with server.client() as client:
        client.set(stored_as("a"), forged)
        assert tier.get_many(["a"], label) == {}
    tier.put_many({"a": A}, label)
    assert tier.flush(30)
    assert same(tier.get_many(["a"], label)["a"], A)


def test_damage_without_end_is_told_now_and_then(
    server: RedisServer, open_tier: Open, caplog: pytest.LogCaptureFixture
) -> None:
    server.start()
    tier = open_tier()
    with server.client() as client:
        for number in range(100):
            client.set(stored_as(str(number)), b"no value")
    for number in range(100):
        tier.get_many([str(number)])
    assert tier.stats().corrupt == 100
    assert len([record for record in caplog.records if "damaged" in record.message]) == 7  # 1, 2, 4, ... 64


def test_no_more_of_a_value_is_read_than_it_may_have(server: RedisServer, open_tier: Open) -> None:
    """Whoever can write to Redis can't have us take the memory for what they wrote."""
    server.start()
    tier = open_tier(part_bytes=100_000)
    with server.client() as client:
        client.set(stored_as("a"), bytes(2**24))
        tracemalloc.start()
        try:
            assert tier.get_many(["a"]) == {}
            assert tracemalloc.get_traced_memory()[1] < 2**22
        finally:
            tracemalloc.stop()


LARGE: dict[str, NDArray[Any]] = {"x": floats(100_000), "y": np.arange(7)}


def stored(server: RedisServer) -> set[str]:
    with server.client() as client:
        return {key.decode() for key in client.keys("*")}


@pytest.mark.parametrize("seal", ["", "ours"])
def test_a_large_value_goes_in_parts_and_comes_back_whole(server: RedisServer, open_tier: Open, seal: str) -> None:
    server.start()
    tier, label = open_tier(part_bytes=30_000, ttl_s=1000), Label("pages", seal)
    tier.put_many({"large": LARGE, "small": A}, label)
    assert tier.flush(30)
    found = tier.get_many(["small", "large"], label)
    assert same(found["large"], LARGE)
    assert same(found["small"], A)
    keys = stored(server)
    assert {stored_as("large"), stored_as("small")} < keys
    assert len(keys) == 2 + 4
    with server.client() as client:
        assert all(client.strlen(key) <= 30_000 for key in keys)
        assert all(0 < client.pttl(key) <= 1_000_000 for key in keys)
    assert (tier.stats().puts, tier.stats().corrupt, tier.stats().dropped) == (2, 0, 0)


def test_what_lacks_a_part_is_missed_and_leaves_nothing_behind(server: RedisServer, open_tier: Open) -> None:
    server.start()
    tier = open_tier(part_bytes=30_000)
    tier.put_many({"large": LARGE})
    assert tier.flush(30)
    part = sorted(stored(server))[-1]
    with server.client() as client:
        client.delete(part)
        assert tier.holds(["large"]) == {"large"}  # a hint
        assert tier.get_many(["large"]) == {}
        assert tier.flush(30)
        assert stored(server) == set()
    assert (tier.stats().misses, tier.stats().corrupt, tier.stats().errors) == (1, 0, 0)


def test_a_part_that_was_exchanged_for_another_values_is_noticed(server: RedisServer, open_tier: Open) -> None:
    server.start()
    tier = open_tier(part_bytes=30_000)
    tier.put_many({"large": LARGE, "other": {"x": floats(100_000, 3), "y": np.arange(7)}})
    assert tier.flush(30)
    ours, theirs = (sorted(key for key in stored(server) if f":{name}." in key) for name in ("large", "other"))
    with server.client() as client:
        client.copy(theirs[1], ours[1], replace=True)
    assert set(tier.get_many(["large", "other"])) == {"other"}
    assert tier.stats().corrupt == 1


def test_a_large_value_on_a_full_server_is_one_value_lost(tmp_path: Path) -> None:
    full = RedisServer(tmp_path, maxmemory="2mb", maxmemory_policy="noeviction").start()
    tier = RedisTier(full.url, part_bytes=300_000)
    tier.put_many({"large": {"x": floats(8_000_000)}}, Label("pages"))
    assert tier.flush(30)
    assert tier.get_many(["large"]) == {}
    assert (tier.stats().dropped, tier.stats().kinds["pages"].dropped) == (1, 1)
    tier.close()
    full.kill()
