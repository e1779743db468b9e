"""The shared tier: values in Redis, for every replica and every machine.

Decides what is sent there and what is believed of what comes back: reads are one round trip, writes go through a bounded
queue and a thread of their own, every value is checked. How to live with a server that is slow or gone is
`cache/redis_link.py`.
"""

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from cache.breaker import Breaker
from cache.claims import BeingMade, Claim, HeldClaims, is_claim
from cache.codec import Arrays, CorruptValue, decode, encode, is_storable, size_of
from cache.finite import is_finite
from cache.private_socket import Private
from cache.redis_connection import Command, Patience
from cache.redis_link import Clock, RedisLink
from cache.tier import UNLABELLED, Label, TierStats
from cache.write_queue import Write, WriteQueue

MAX_VALUE_BYTES = 8 * 2**20
"""One larger object would block the server for everybody while it is copied."""

_KEYS_PER_ROUND_TRIP = 64

log = logging.getLogger("triptych.cache")


class RedisTier:
    """Implements `cache.tier.Tier`. Starts without a server, and picks it up when it appears.

    `url`: redis://, rediss:// or unix://. Keys are stored as `namespace:key`. `ttl_s` None: until the server evicts them.
    A read takes at most about `patience.timeout_s`, or the time that the bytes received justify. Writes are lost, and
    counted as dropped, when more than `queue_bytes` wait. `private`: a unix socket on which only a server of this user's own is
    believed (`cache/private_socket.py`). Raises `ValueError` for a wrong URL.
    """

    name = "redis"

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "triptych",
        max_value_bytes: int = MAX_VALUE_BYTES,
        ttl_s: float | None = None,
        queue_bytes: int = 64 * 2**20,
        patience: Patience = Patience(),
        breaker: Breaker | None = None,
        clock: Clock = time.monotonic,
        private: Private | None = None,
    ) -> None:
        self._namespace, self._max_value_bytes, self._patience, self._clock = namespace, max_value_bytes, patience, clock
        self._expiry: Command = () if ttl_s is None else ("PX", max(1, round(ttl_s * 1000)))
        self._link = RedisLink(
            url,
            patience=patience,
            largest_write_bytes=max_value_bytes,
            breaker=breaker or Breaker(),
            clock=clock,
            private=private,
        )
        self._writes = WriteQueue(queue_bytes)
        self._claims = HeldClaims(self._writes, owner=uuid.uuid4().hex)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name="redis-writer", daemon=True)
        self._thread.start()

    # ---- reading ----

    def get_many(self, keys: Sequence[str], label: Label = UNLABELLED) -> dict[str, Arrays]:
        wanted = list(dict.fromkeys(keys))
        found = {} if self._closed else self._get_all(wanted)
        self._count(hits=len(found), misses=len(wanted) - len(found))
        return found

    def _get_all(self, keys: Sequence[str]) -> dict[str, Arrays]:
        found: dict[str, Arrays] = {}
        started, received = self._clock(), 0
        for start in range(0, len(keys), _KEYS_PER_ROUND_TRIP):
            if self._clock() - started > self._patience.for_bytes(received):
                break
            some = keys[start : start + _KEYS_PER_ROUND_TRIP]
            replies = self._link.ask([("GET", self._stored(key)) for key in some])
            if replies is None:
                break
            received += sum(len(reply) for reply in replies if isinstance(reply, bytes))
            found.update(self._checked(some, replies))
        return found

    def _checked(self, keys: Sequence[str], replies: Sequence[object]) -> Iterator[tuple[str, Arrays]]:
        for key, reply in zip(keys, replies, strict=True):
            if is_claim(reply):
                continue
            if isinstance(reply, bytes):
                try:
                    yield key, _sound(decode(key, reply))
                except CorruptValue as error:
                    log.warning("a damaged value in Redis at %s is deleted: %s", self._link.where, error)
                    self._count(corrupt=1)
                    self.delete([key])
            elif reply is not None:  # refused: another type under this key, no permission
                self._count(errors=1)

    def holds(self, keys: Sequence[str]) -> set[str]:
        replies = None if self._closed or not keys else self._link.ask([("EXISTS", self._stored(key)) for key in keys])
        return {key for key, reply in zip(keys, replies or (), strict=False) if reply == 1}

    # ---- claims ----

    def get_or_claim(self, key: str, label: Label = UNLABELLED) -> Arrays | Claim | BeingMade | None:
        replies = None if self._closed else self._link.ask([self._claims.bid(self._stored(key)), ("GET", self._stored(key))])
        found = {} if replies is None else dict(self._checked([key], replies[1:]))
        outcome = None if replies is None or found else self._claims.outcome(key, *replies)
        if not isinstance(outcome, BeingMade):  # that is asked for again
            self._count(hits=len(found), misses=1 - len(found))
        return found.get(key, outcome)

    def renew(self) -> None:
        self._claims.renew()

    def let_go(self, claim: Claim) -> None:
        self._claims.let_go(claim)

    def not_kept(self, claim: Claim) -> None:
        self._claims.not_kept(claim)

    # ---- writing ----

    def put_many(self, values: Mapping[str, Arrays], label: Label = UNLABELLED) -> None:
        for key, value in values.items():
            if not (is_storable(value) and is_finite(value)):
                self._count(errors=1)
            elif self._put(key, value):
                self._count(puts=1)
            else:
                self._count(dropped=1)

    def _put(self, key: str, value: Arrays) -> bool:
        size = size_of(value)
        if size > self._max_value_bytes or self._link.is_down() or not self._writes.has_room(size):
            return False
        # Encoded here and not in the writer's thread: the arrays are the caller's, who may change them when this returns.
        return self._claims.put(Write(key, encode(key, value)))

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._writes.offer(Write(key, None))

    def flush(self, timeout_s: float) -> bool:
        """Waits until everything accepted is written or lost; False if `timeout_s` was too short."""
        return self._writes.wait_empty(timeout_s)

    def _write_all(self) -> None:
        """The writer's thread."""
        is_checked = False
        while batch := self._writes.take(self._max_value_bytes):
            replies = self._link.ask([self._command(write) for write in batch], writing=True)
            self._account(batch, replies)
            self._writes.done(batch)
            if replies is not None and not is_checked:
                is_checked = self._check_policy()

    def _command(self, write: Write) -> Command:
        if write.data is None:
            return ("UNLINK", self._stored(write.key))
        expiry = self._expiry if write.ttl_ms is None else ("PX", write.ttl_ms)
        return ("SET", self._stored(write.key), write.data, *expiry)

    def _account(self, batch: Sequence[Write], replies: Sequence[object] | None) -> None:
        if replies is None:
            self._count(dropped=sum(_is_value(write) for write in batch))
            return
        for write, reply in zip(batch, replies, strict=True):
            if isinstance(reply, Exception):  # refused: no memory left, read-only, no permission
                self._count(errors=1, dropped=int(_is_value(write)))

    def _check_policy(self) -> bool:
        """Warns where the server would not make room by itself. Whether it could be asked."""
        replies = self._link.ask([("INFO", "memory")])
        if replies is None:
            return False
        memory = _info(replies[0])
        if memory.get("maxmemory_policy") == "noeviction" or memory.get("maxmemory") == 0:
            log.warning(
                "Redis at %s has maxmemory %s and maxmemory-policy %s: it will grow without bound or refuse to store; "
                "set maxmemory, and maxmemory-policy allkeys-lfu",
                self._link.where,
                memory.get("maxmemory"),
                memory.get("maxmemory_policy"),
            )
        return True

    # ---- accounts ----

    def stats(self) -> TierStats:
        """Asks the server how full it is, if it answers; `bytes` is all the memory that it uses."""
        replies = None if self._closed or self._link.is_down() else self._link.ask([("INFO",), ("DBSIZE",)])
        info, entries = ({}, 0) if replies is None else (_info(replies[0]), replies[1])
        with self._lock:
            counts = dict(self._counts)
        counts["errors"] = counts.get("errors", 0) + self._link.num_failures
        return TierStats(
            **counts,
            evictions=_number(info.get("evicted_keys")),
            bytes=_number(info.get("used_memory")),
            entries=_number(entries),
        )

    def close(self) -> None:
        """Gives what waits to be written about as long as a read may take."""
        self._closed = True
        self._writes.close()
        self._thread.join(self._patience.for_bytes(self._max_value_bytes))
        self._link.close()

    def _count(self, **amounts: int) -> None:
        with self._lock:
            self._counts.update(amounts)

    def _stored(self, key: str) -> str:
        return f"{self._namespace}:{key}"


def _is_value(write: Write) -> bool:
    return write.data is not None and not is_claim(write.data)


def _sound(value: Arrays) -> Arrays:
    """Raises `CorruptValue`: nobody should have put such numbers there."""
    if not is_finite(value):
        raise CorruptValue("it holds a NaN or an infinity")
    return value


def _info(reply: object) -> Mapping[str, object]:
    return reply if isinstance(reply, dict) else {}


def _number(reply: object) -> int:
    return reply if isinstance(reply, int) else 0
