"""A server of their own, not started yet, and tiers on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.breaker import Breaker
from cache.redis.redis_tier import RedisTier
from tests.cache.redis.opening import Clock, Open
from tests.cache.redis_server import RedisServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_tier(server: RedisServer, clock: Clock) -> Iterator[Open]:
    made: list[RedisTier] = []

    def open_one(**options: object) -> RedisTier:
        settings = {"breaker": Breaker(3, 5), "clock": clock} | options
        made.append(RedisTier(server.url, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield open_one
    for tier in made:
        tier.close()
