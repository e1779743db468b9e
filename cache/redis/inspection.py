"""What a Redis instance holds of ours, for whoever runs it: how full it is, what a value says of itself, and how to clear it.

Decides what may be told: of a value its description, never its numbers. Unlike a tier it raises where the server doesn't answer. Touches
keys of our namespace only; what is of another format is counted and cleared with the rest, and not looked at.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cache.claims import is_claim
from cache.codec import OVERHEAD_BYTES, CorruptValue, Description, decode, describe
from cache.parts import table_of
from cache.redis.redis_checks import QUESTIONS, told, warnings
from cache.redis.redis_connection import Client, Command, LimitedClient
from cache.redis.redis_tier import MAX_VALUE_BYTES, NAMESPACE, stored_as

_SCANNED_AT_A_TIME = 1000


class RedisSilent(Exception):
    """The server doesn't answer, or refuses. Its message holds no password."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Of one server; None: it doesn't tell. `hits`, `misses`: of all its clients, since it started."""

    where: str
    version: str | None
    used_bytes: int | None
    max_bytes: int | None
    policy: str | None
    entries: int | None
    hits: int | None
    misses: int | None
    evictions: int | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """`num_bytes`: as stored; `num_parts` 0: in one piece. `ttl_ms` None: until it is evicted. `check`: what its check says."""

    description: Description
    num_bytes: int
    num_parts: int
    ttl_ms: int | None
    check: str


class Inspection:
    """Closes its client with `close`. Raises `RedisSilent`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def facts(self) -> Sequence[NodeFacts]:
        with self._heard():
            return [self._facts(node) for node in self._client.nodes()]

    def clear(self) -> int:
        """Forgets all that is ours. How many keys those were."""
        with self._heard():
            return sum(self._clear(node) for node in self._client.nodes())

    def look(self, name: str, seals: Mapping[str, str]) -> Entry | None:
        """What is stored under a name; None: nothing. `seals`: seal by whom it is of; what is sealed and of none of them is not checked.
        Raises `CorruptValue` for what is no value."""
        key = name.removeprefix(stored_as(""))
        with self._heard():
            stored, ttl_ms = self._client.ask([self._read(key), ("PTTL", stored_as(key))])
            if isinstance(stored, Exception):
                raise stored
            if not isinstance(stored, bytes) or not stored or is_claim(stored):
                return None
            table = table_of(key, stored, MAX_VALUE_BYTES + OVERHEAD_BYTES)
            if table is not None:
                pieces = self._client.ask([self._read(part, table.part_bytes) for part in table.keys])
                stored = table.joined([piece for piece in pieces if isinstance(piece, bytes) and piece])
        lasting = ttl_ms if isinstance(ttl_ms, int) and ttl_ms >= 0 else None
        num_parts = len(table.keys) if table is not None else 0
        return Entry(describe(stored), len(stored), num_parts, lasting, _check(key, stored, seals))

    def close(self) -> None:
        self._client.close()

    def _facts(self, node: LimitedClient) -> NodeFacts:
        info, entries, *settings = node.ask([("INFO",), ("DBSIZE",), *QUESTIONS])
        known = told(info)
        version = next((f"{name} {known[key]}" for name, key in _VERSIONS.items() if key in known), None)
        policy = known.get("maxmemory_policy")
        return NodeFacts(
            where=node.where,
            version=version,
            used_bytes=_number(known.get("used_memory")),
            max_bytes=_number(known.get("maxmemory")),
            policy=str(policy) if policy is not None else None,
            entries=_number(entries),
            hits=_number(known.get("keyspace_hits")),
            misses=_number(known.get("keyspace_misses")),
            evictions=_number(known.get("evicted_keys")),
            warnings=tuple(warnings(settings, node.shell)),
        )

    def _clear(self, node: LimitedClient) -> int:
        removed, cursor = 0, 0
        while True:
            (reply,) = node.ask([("SCAN", cursor, "MATCH", f"{NAMESPACE}:*", "COUNT", _SCANNED_AT_A_TIME)])
            if not isinstance(reply, tuple):
                raise reply if isinstance(reply, Exception) else TypeError("not what SCAN tells")
            cursor, keys = reply
            replies = node.ask([("UNLINK", key) for key in keys]) if keys else []
            removed += sum(reply for reply in replies if isinstance(reply, int))
            if cursor == 0:
                return removed

    def _read(self, key: str, max_bytes: int = MAX_VALUE_BYTES + OVERHEAD_BYTES) -> Command:
        return ("GETRANGE", stored_as(key), 0, max_bytes - 1)

    @contextmanager
    def _heard(self) -> Iterator[None]:
        try:
            yield
        except CorruptValue:
            raise
        except Exception as error:
            raise RedisSilent(f"the Redis at {self._client.where} does not answer: {self._client.told(error)}") from None


_VERSIONS = {"Valkey": "valkey_version", "Redis": "redis_version"}


def _check(key: str, stored: bytes, seals: Mapping[str, str]) -> str:
    if not describe(stored).is_sealed:
        return _why_not(key, stored, "") or "sound; not sealed, so anybody may have written it"
    if not seals:
        return "sealed: without the secret nobody can tell whether it is sound"
    for whose, seal in seals.items():
        if _why_not(key, stored, seal) is None:
            return f"sound, of {whose}"
    return f"sealed, and not of {', '.join(seals)}: damaged, forged, or sealed with another secret"


def _why_not(key: str, stored: bytes, seal: str) -> str | None:
    try:
        decode(key, stored, seal)
    except CorruptValue as error:
        return f"damaged: {error}"
    return None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None
