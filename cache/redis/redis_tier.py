"""The shared tier: values in Redis, for every replica and every machine.

Decides what is sent there and what is believed of what comes back: reads are one round trip (two for a value in parts), writes go through
a bounded queue and a thread of their own, every value is checked. How to live with a server that is slow or gone is
`cache/redis/redis_link.py`.
"""

import logging
import threading
import time
import uuid
from collections.abc import Mapping, Sequence

from cache.accounts import Accounts
from cache.breaker import Breaker
from cache.claims import BeingMade, Claim, HeldClaims, is_claim
from cache.codec import FORMAT_VERSION, OVERHEAD_BYTES, Arrays, CorruptValue, decode, encode, is_storable, size_of
from cache.finite import is_finite
from cache.parts import Table, divided, table_of
from cache.redis.private_socket import Private
from cache.redis.redis_checks import QUESTIONS, told, warnings
from cache.redis.redis_connection import Command, Patience
from cache.redis.redis_link import Clock, RedisLink
from cache.tier import UNLABELLED, Label, TierStats
from cache.write_queue import Write, WriteQueue

NAMESPACE = "triptych"
PART_BYTES = 8 * 2**20
"""One larger object would block the server for everybody while it is copied."""

MAX_VALUE_BYTES = 64 * 2**20

KEYS_PER_ROUND_TRIP = 64

log = logging.getLogger("triptych.cache")


def stored_as(key: str, namespace: str = NAMESPACE) -> str:
    """The key in Redis. With the format, so that while replicas are updated one by one, old and new ones don't meet each other's values,
    which they would take for damaged ones."""
    return f"{namespace}:{FORMAT_VERSION}:{key}"


class RedisTier:
    """Implements `cache.tier.Tier`. Starts without a server, and picks it up when it appears.

    `url`: redis://, rediss:// or unix://; of one node, with `cluster`. Keys are stored as `stored_as` says. What takes more than
    `part_bytes` goes in parts, what has more than `max_value_bytes` not at all. `ttl_s`, and by kind of value `ttl_s_of`, None: until the
    server evicts them. A read takes at most about `patience.timeout_s`, or the time that the bytes received justify, and never brings
    more bytes a key than a value may have; one that ends early has what came in whole round trips. Writes are lost, and counted as
    dropped, when more than `queue_bytes` wait, and still do after `put_within_s`. `private`: a unix socket on which only a server of this
    user's own is believed (`cache/redis/private_socket.py`). Raises `ValueError` for a wrong URL.
    """

    name = "redis"

    def __init__(
        self,
        url: str,
        *,
        cluster: bool = False,
        namespace: str = NAMESPACE,
        part_bytes: int = PART_BYTES,
        max_value_bytes: int = MAX_VALUE_BYTES,
        ttl_s: float | None = None,
        ttl_s_of: Mapping[str, float] | None = None,
        queue_bytes: int = 64 * 2**20,
        put_within_s: float = 0.0,
        keys_per_round_trip: int = KEYS_PER_ROUND_TRIP,
        patience: Patience = Patience(),
        breaker: Breaker | None = None,
        clock: Clock = time.monotonic,
        private: Private | None = None,
    ) -> None:
        self._namespace, self._patience, self._clock = namespace, patience, clock
        self._part_bytes, self._max_value_bytes = part_bytes, max_value_bytes
        self._put_within_s, self._keys_per_round_trip = put_within_s, keys_per_round_trip
        self._ttl_s, self._ttl_s_of = ttl_s, dict(ttl_s_of or {})
        self._link = RedisLink(
            url,
            patience=patience,
            largest_write_bytes=part_bytes,
            breaker=breaker or Breaker(),
            clock=clock,
            private=private,
            cluster=cluster,
        )
        self._is_private = private is not None
        self._writes = WriteQueue(queue_bytes)
        self._claims = HeldClaims(self._writes, owner=uuid.uuid4().hex, clock=clock)
        self._accounts = Accounts()
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name="redis-writer", daemon=True)
        self._thread.start()

    # ---- reading ----

    def get_many(self, keys: Sequence[str], label: Label = UNLABELLED) -> dict[str, Arrays]:
        wanted = list(dict.fromkeys(keys))
        found = {} if self._closed else self._get_all(wanted, label)
        self._accounts.count(label.kind, hits=len(found), misses=len(wanted) - len(found))
        return found

    def _get_all(self, keys: Sequence[str], label: Label) -> dict[str, Arrays]:
        found: dict[str, Arrays] = {}
        budget = _Budget(self._patience, self._clock)
        for start in range(0, len(keys), self._keys_per_round_trip):
            if budget.is_spent():
                break
            some = keys[start : start + self._keys_per_round_trip]
            replies = self._link.ask([self._read(key) for key in some])
            if replies is None:
                break
            found.update(self._values(some, replies, label, budget))
        return found

    def _read(self, key: str, max_bytes: int | None = None) -> Command:
        """A key that isn't there reads as nothing."""
        return ("GETRANGE", self._stored(key), 0, (max_bytes or self._part_bytes) - 1)

    def _values(self, keys: Sequence[str], replies: Sequence[object], label: Label, budget: "_Budget") -> dict[str, Arrays]:
        """What the replies to `_read` hold that is sound."""
        found: dict[str, Arrays] = {}
        budget.received(replies)
        for key, reply in zip(keys, replies, strict=True):
            if is_claim(reply):
                continue
            if isinstance(reply, bytes) and reply:
                try:
                    whole = self._whole(key, reply, budget)
                    if whole is not None:
                        found[key] = _sound(decode(key, whole, label.seal))
                except CorruptValue as error:
                    self._damaged(key, label, error)
            elif reply != b"":  # refused: another type under this key, no permission
                self._accounts.count(label.kind, errors=1)
        return found

    def _whole(self, key: str, stored: bytes, budget: "_Budget") -> bytes | None:
        """What is stored under the key, with its parts where it is the head of some. None: one of them can't be had."""
        table = table_of(key, stored, self._max_value_bytes + OVERHEAD_BYTES)
        if table is None:
            return stored
        asked = [self._read(part, table.part_bytes) for part in table.keys]
        replies = None if budget.is_spent() else self._link.ask(asked)
        if replies is None:
            return None
        budget.received(replies)
        if b"" in replies:
            self._forget(key, table)  # or it would be looked for again and again
            return None
        pieces = [reply for reply in replies if isinstance(reply, bytes)]  # a node that is down tells nothing of those it has
        return table.joined(pieces) if len(pieces) == len(table.keys) else None

    def _forget(self, key: str, table: Table) -> None:
        self.delete([key, *table.keys])

    def _damaged(self, key: str, label: Label, error: CorruptValue) -> None:
        self._accounts.count(label.kind, corrupt=1)
        count = self._accounts.total("corrupt")
        if count & (count - 1) == 0:  # the first, second, fourth, ...: whoever writes such things may write many
            log.warning("a damaged value in Redis at %s is deleted (%d up to now): %s", self._link.where, count, error)
        self.delete([key])

    def holds(self, keys: Sequence[str]) -> set[str]:
        replies = None if self._closed or not keys else self._link.ask([("EXISTS", self._stored(key)) for key in keys])
        return {key for key, reply in zip(keys, replies or (), strict=False) if reply == 1}

    # ---- claims ----

    def get_or_claim(self, key: str, label: Label = UNLABELLED) -> Arrays | Claim | BeingMade | None:
        budget = _Budget(self._patience, self._clock)
        sent_at = self._clock()
        replies = None if self._closed else self._link.ask([self._claims.bid(self._stored(key)), self._read(key)])
        found = {} if replies is None else self._values([key], replies[1:], label, budget)
        outcome = None if replies is None or found else self._claims.outcome(key, *replies, sent_at=sent_at)
        if not isinstance(outcome, BeingMade):  # that is asked for again
            self._accounts.count(label.kind, hits=len(found), misses=1 - len(found))
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
                self._accounts.count(label.kind, errors=1)
            elif self._put(key, value, label):
                self._accounts.count(label.kind, puts=1, put_bytes=size_of(value))
            else:
                self._accounts.count(label.kind, dropped=1)

    def _put(self, key: str, value: Arrays, label: Label) -> bool:
        size = size_of(value)
        if size > self._max_value_bytes or self._link.is_down() or not self._writes.wait_room(size, self._put_within_s):
            return False
        # Encoded here and not in the writer's thread: the arrays are the caller's, who may change them when this returns.
        try:
            data = encode(key, value, label.seal, label.kind)
        except ValueError:  # of too many arrays
            return False
        ttl_s = self._ttl_s_of.get(label.kind, self._ttl_s)
        ttl_ms = None if ttl_s is None else max(1, round(ttl_s * 1000))
        if len(data) <= self._part_bytes:
            return self._claims.put(Write(key, data, ttl_ms, kind=label.kind))
        parts = divided(key, data, self._part_bytes)
        return self._claims.put(Write(key, parts.head, ttl_ms, parts.pieces, label.kind))

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._writes.offer(Write(key, None))

    def flush(self, timeout_s: float) -> bool:
        """Waits until everything accepted is written or lost; False if `timeout_s` was too short."""
        return self._writes.wait_empty(timeout_s)

    def _write_all(self) -> None:
        """The writer's thread."""
        is_known = self._look_at_server()
        while batch := self._writes.take(self._part_bytes):
            written = self._carry_out(batch)
            self._writes.done(batch)
            if written and not is_known:
                is_known = self._look_at_server()

    def _carry_out(self, batch: Sequence[Write]) -> bool:
        """Whether the server answers. What has parts is larger than a batch, and alone in it."""
        batch = self._claims.due(batch)
        if not batch:
            return False
        for name, part in batch[0].parts:
            replies = self._link.ask([self._store(name, part, batch[0].ttl_ms)], writing=True)
            if replies is None or isinstance(replies[0], Exception):
                self._account(batch, replies)
                return replies is not None
        sent_at = self._clock()
        replies = self._link.ask([self._command(write) for write in batch], writing=True)
        self._account(batch, replies)
        for write, reply in zip(batch, replies or (), strict=False):
            if not isinstance(reply, Exception):
                self._claims.written(write, sent_at=sent_at)
        return replies is not None

    def _command(self, write: Write) -> Command:
        return ("UNLINK", self._stored(write.key)) if write.data is None else self._store(write.key, write.data, write.ttl_ms)

    def _store(self, key: str, data: bytes | memoryview, ttl_ms: int | None) -> Command:
        return ("SET", self._stored(key), bytes(data), *(() if ttl_ms is None else ("PX", ttl_ms)))

    def _account(self, batch: Sequence[Write], replies: Sequence[object] | None) -> None:
        """`replies` None: none came."""
        for write, reply in zip(batch, [None] * len(batch) if replies is None else replies, strict=True):
            lost = int(write.data is not None and not is_claim(write.data))
            if replies is None:
                self._accounts.count(write.kind, dropped=lost)
            elif isinstance(reply, Exception):  # refused: no memory left, read-only, no permission
                self._accounts.count(write.kind, errors=1, dropped=lost)

    def _look_at_server(self) -> bool:
        """Warns of what doesn't suit a cache. Whether it could be asked. One of our own is known to suit."""
        nodes = [] if self._is_private else self._link.ask_nodes(QUESTIONS)
        for warning in dict.fromkeys(found for replies in nodes or () for found in warnings(replies, self._link.shell)):
            log.warning("Redis at %s: %s", self._link.where, warning)
        return nodes is not None

    # ---- accounts ----

    def stats(self) -> TierStats:
        """Asks the server how full it is, if it answers; `bytes` is all the memory that it uses."""
        nodes = None if self._closed or self._link.is_down() else self._link.ask_nodes([("INFO",), ("DBSIZE",)])
        infos = [told(replies[0]) for replies in nodes or ()]
        totals = self._accounts.totals()
        totals["errors"] = totals.get("errors", 0) + self._link.num_failures
        return TierStats(
            **totals,
            evictions=sum(_number(info.get("evicted_keys")) for info in infos),
            bytes=sum(_number(info.get("used_memory")) for info in infos),
            entries=sum(_number(replies[1]) for replies in nodes or ()),
            is_down=not self._link.is_up,
            opened=self._link.num_opened,
            kinds=self._accounts.kinds(),
        )

    def close(self) -> None:
        """Gives what waits to be written about as long as a read may take."""
        self._closed = True
        self._writes.close()
        self._thread.join(self._patience.for_bytes(self._part_bytes))
        self._link.close()

    def _stored(self, key: str) -> str:
        return stored_as(key, self._namespace)


class _Budget:
    """The time that one read may take: longer by what it has brought."""

    def __init__(self, patience: Patience, clock: Clock) -> None:
        self._patience, self._clock, self._began, self._num_bytes = patience, clock, clock(), 0

    def received(self, replies: Sequence[object]) -> None:
        self._num_bytes += sum(len(reply) for reply in replies if isinstance(reply, bytes))

    def is_spent(self) -> bool:
        return self._clock() - self._began > self._patience.for_bytes(self._num_bytes)


def _sound(value: Arrays) -> Arrays:
    """Raises `CorruptValue`: nobody should have put such numbers there."""
    if not is_finite(value):
        raise CorruptValue("it holds a NaN or an infinity")
    return value


def _number(reply: object) -> int:
    return reply if isinstance(reply, int) else 0
