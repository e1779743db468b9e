"""Claims that stand in a server's embedded Redis: who makes what, as far as somebody still does. Reads, and changes nothing."""

from __future__ import annotations

import redis

from cache.claims import is_claim
from pipelines.settings.private_redis import embedded_name, socket_url
from pipelines.settings.serve.specs import KV

MANY = 1000
READ_BYTES = 64
"""A claim's mark stands at its beginning."""


def standing(application: str) -> int:
    """In both servers of that application. Raises `redis.RedisError` where one doesn't answer."""
    return sum(_standing(socket_url(name)) for name in (embedded_name(application), embedded_name(application, KV)))


def _standing(url: str) -> int:
    client = redis.Redis.from_url(url, socket_timeout=10)
    try:
        return sum(is_claim(_beginning(client, key)) for key in client.scan_iter(count=MANY))
    finally:
        client.close()


def _beginning(client: redis.Redis, key: bytes) -> bytes:
    try:
        found = client.getrange(key, 0, READ_BYTES - 1)
    except redis.ResponseError:  # a list of kept things, not a value
        return b""
    return found if isinstance(found, bytes) else b""
