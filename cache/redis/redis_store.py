"""Kept values (`cache/store.py`) in Redis, where every process sees them.

Decides how values and lists are laid out there. A value stands under its key with a byte before it that says whether it is whole or in
parts, since a larger object would block the server while it is copied; a list is a sorted set of members by when their time is over.
Every command has one key, so that a Redis Cluster serves as well. Whose values are believed is the caller's to check: nothing here is
sealed.
"""

import secrets
import struct
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from cache.breaker import Breaker
from cache.redis.private_socket import Private
from cache.redis.redis_connection import Command, Patience
from cache.redis.redis_link import RedisLink
from cache.store import StoreDown

NAMESPACE = "triptych:kept"
PART_BYTES = 8 * 2**20
MAX_VALUE_BYTES = 2**30
_WHOLE, _PARTS = b"w", b"p"
_TABLE = struct.Struct(">QI16s")  # bytes in all, bytes a part, what the parts' keys have in common


class RedisStore:
    """A `Store`. `url`, `cluster`, `private`: as `RedisTier` has them. `now`: seconds since 1970, by which lists are kept: processes that
    share one must agree about it within a fraction of a value's time. Raises `ValueError` for a wrong URL."""

    is_shared = True

    def __init__(
        self,
        url: str,
        *,
        cluster: bool = False,
        private: Private | None = None,
        namespace: str = NAMESPACE,
        part_bytes: int = PART_BYTES,
        patience: Patience = Patience(timeout_s=2.0),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._link = RedisLink(
            url, patience=patience, largest_write_bytes=part_bytes, breaker=Breaker(), private=private, cluster=cluster
        )
        self._namespace, self._part_bytes, self._now = namespace, part_bytes, now

    def read(self, key: str) -> bytes | None:
        stored = self._bytes(self._at(key), self._part_bytes + 1)
        if stored[:1] == _WHOLE:
            return stored[1:]
        return self._joined(key, stored[1:]) if stored[:1] == _PARTS else None

    def write(
        self, key: str, data: bytes, *, ttl_s: float, owner: str = "", if_absent: bool = False, if_present: bool = False
    ) -> bool:
        ttl_ms = max(1, round(ttl_s * 1000))
        head = _WHOLE + data if len(data) <= self._part_bytes else self._in_parts(key, data, ttl_ms)
        where = ("NX",) if if_absent else ("XX",) if if_present else ()
        return self._one("SET", self._at(key), head, "PX", ttl_ms, *where, writing=True) is not None

    def renew(self, key: str, ttl_s: float) -> bool:
        """Parts first: a head that stands finds them all."""
        at, ttl_ms = self._at(key), max(1, round(ttl_s * 1000))
        head = self._bytes(at, 1 + _TABLE.size)
        parts = self._parts(key, head[1:]) if head[:1] == _PARTS else []
        return all(self._one("PEXPIRE", name, ttl_ms) == 1 for name in (*parts, at))

    def delete(self, key: str) -> None:
        """Parts go by themselves, when their time is over."""
        self._one("UNLINK", self._at(key))

    def add(self, index: str, member: str, *, ttl_s: float) -> None:
        """The list itself lives as long as its last member."""
        at, until = self._at(index), round((self._now() + ttl_s) * 1000)
        over = round(self._now() * 1000)
        left = self._all(("ZREMRANGEBYSCORE", at, "-inf", over), ("ZADD", at, until, member), ("PTTL", at))[2]
        ttl_ms = max(1, round(ttl_s * 1000))
        if not isinstance(left, int) or left < ttl_ms:
            self._one("PEXPIRE", at, ttl_ms)

    def members(self, index: str) -> Sequence[str]:
        at = self._at(index)
        _, found = self._all(("ZREMRANGEBYSCORE", at, "-inf", round(self._now() * 1000)), ("ZRANGE", at, 0, -1))
        return [member.decode() for member in found] if isinstance(found, list) else []

    def remove(self, index: str, member: str) -> None:
        self._one("ZREM", self._at(index), member)

    def close(self) -> None:
        self._link.close()

    def _at(self, key: str) -> str:
        return f"{self._namespace}:{key}"

    def _in_parts(self, key: str, data: bytes, ttl_ms: int) -> bytes:
        """Writes the parts, under names that nobody used; the head that finds them."""
        if len(data) > MAX_VALUE_BYTES:
            raise StoreDown(f"a value of {len(data)} bytes is not kept; at most {MAX_VALUE_BYTES}")
        named = secrets.token_bytes(16)
        for part, start in enumerate(range(0, len(data), self._part_bytes)):
            piece = data[start : start + self._part_bytes]
            self._one("SET", self._part(key, named, part), piece, "PX", ttl_ms, writing=True)
        return _PARTS + _TABLE.pack(len(data), self._part_bytes, named)

    def _joined(self, key: str, table: bytes) -> bytes | None:
        """None: a part is gone, or the head is none of ours."""
        parts, data = self._parts(key, table), bytearray()
        if not parts:
            return None
        size, part_bytes, _ = _TABLE.unpack(table)
        for name in parts:
            piece = self._bytes(name, part_bytes)
            if not piece:
                return None
            data += piece
        return bytes(data) if len(data) == size else None

    def _parts(self, key: str, table: bytes) -> Sequence[str]:
        """Their names; none where the head is none of ours."""
        if len(table) != _TABLE.size:
            return []
        size, part_bytes, named = _TABLE.unpack(table)
        if not (0 < part_bytes <= MAX_VALUE_BYTES and size <= MAX_VALUE_BYTES and size <= part_bytes * 2**16):
            return []
        return [self._part(key, named, part) for part in range(-(-size // part_bytes))]

    def _part(self, key: str, named: bytes, part: int) -> str:
        return f"{self._at(key)}:{named.hex()}:{part}"

    def _bytes(self, at: str, max_bytes: int) -> bytes:
        """What stands there, as far as it may be ours; empty: nothing."""
        found = self._one("GETRANGE", at, 0, max_bytes - 1)
        return found if isinstance(found, bytes) else b""

    def _one(self, *command: str | bytes | int, writing: bool = False) -> object:
        return self._all(command, writing=writing)[0]

    def _all(self, *commands: Command, writing: bool = False) -> list[object]:
        replies = self._link.ask(commands, writing=writing)
        if replies is None:
            self._down("it doesn't answer")
        for reply in replies:
            if isinstance(reply, Exception):
                self._down(f"it refused: {reply}")
        return replies

    def _down(self, why: str) -> NoReturn:
        raise StoreDown(f"Redis at {self._link.where}: {why}")
