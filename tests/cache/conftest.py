"""Servers that the tests of a module share."""

from collections.abc import Iterator

import pytest

from cache.redis.embedded import EmbeddedRedis
from tests.cache.redis_server import RedisServer


@pytest.fixture(scope="module")
def embedded_url() -> Iterator[str]:
    server = EmbeddedRedis(64 * 2**20)
    yield server.url
    server.close()


@pytest.fixture(scope="module")
def tcp_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = RedisServer(tmp_path_factory.mktemp("redis"), tcp=True).start()
    yield server.url
    server.kill()
