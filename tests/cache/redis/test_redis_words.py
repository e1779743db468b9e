"""What the Redis tier logs and refuses, and what it never tells."""

import logging
import re
from pathlib import Path

import pytest

from cache.breaker import Breaker
from cache.redis.redis_tier import RedisTier
from tests.cache.redis.opening import Clock, Open, put
from tests.cache.redis_server import RedisServer


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"maxmemory": "64mb", "maxmemory_policy": "noeviction"}, ["CONFIG SET maxmemory-policy allkeys-lfu"]),
        ({"maxmemory": "64mb", "maxmemory_policy": "volatile-lru"}, ["CONFIG SET maxmemory-policy allkeys-lfu"]),
        ({"maxmemory": "0"}, ["CONFIG SET maxmemory 4gb"]),
        ({"save": "3600 1"}, ["CONFIG SET save ''"]),
        ({"appendonly": "yes"}, ["CONFIG SET appendonly no"]),
        ({"save": "60 1", "appendonly": "yes"}, ["CONFIG SET appendonly no", "CONFIG SET save ''"]),
        ({}, []),
    ],
)
def test_what_of_a_server_does_not_suit_a_cache_is_told_at_start_with_what_mends_it(
    tmp_path: Path, settings: dict[str, str], told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path, more=settings).start()
    tier = RedisTier(server.url)
    for key in "abc":
        put(tier, key)
    tier.close()  # joins the thread that warns
    warned = [record.message for record in caplog.records]
    assert len(warned) == len(told)
    assert all(f"redis-cli -s {tmp_path}/s.sock {command}" in message for command, message in zip(told, warned, strict=True))
    for message in warned:
        for command in re.findall(r"`redis-cli -s \S+ ([^`]*)`", message):
            with server.client() as client:
                client.execute_command(*command.split(" ")[:-1], command.split(" ")[-1].strip("'"))
    caplog.clear()
    tier = RedisTier(server.url)
    put(tier)
    tier.close()
    assert not caplog.records
    server.kill()


def test_a_server_that_comes_later_is_looked_at_then(
    server: RedisServer, open_tier: Open, clock: Clock, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    late = RedisServer(tmp_path, maxmemory_policy="noeviction")
    tier = RedisTier(late.url, breaker=Breaker(3, 5), clock=clock)
    put(tier)
    late.start()
    clock.now += 5
    put(tier)
    tier.close()
    late.kill()
    assert len([record for record in caplog.records if "noeviction" in record.message]) == 1


def test_a_lost_server_is_told_once_and_so_is_its_return(
    server: RedisServer, open_tier: Open, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tier = open_tier()
    for _ in range(20):
        tier.get_many(["a"])
        clock.now += 1
    server.start()
    clock.now += 5
    tier.get_many(["a"])
    told = [record.message for record in caplog.records]
    assert [message for message in told if "does not answer" in message] == told[:1]
    assert ["answers again" in message for message in told[1:]] == [True]
    assert (tier.stats().opened, tier.stats().is_down) == (1, False)


def test_a_password_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    tier = RedisTier("redis://user:secret@127.0.0.1:1")
    for _ in range(5):
        tier.get_many(["a"])
    tier.close()
    assert "127.0.0.1:1" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("url", ["", "http://localhost", "localhost:6379"])
def test_a_wrong_url_is_told_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="redis://"):
        RedisTier(url)
