"""What of a Redis server's own settings doesn't suit a cache, and the command that mends it.

Pure: takes what the server tells of itself. Decides what is worth a warning: a server that makes no room by itself, and one that writes
to disk what can be made again.
"""

from collections.abc import Iterator, Mapping, Sequence

from cache.redis.redis_connection import Command

QUESTIONS: Sequence[Command] = (("INFO", "memory"), ("INFO", "persistence"), ("CONFIG GET", "save"))
"""To one server. It may refuse any of them."""


def warnings(replies: Sequence[object], cli: str) -> Iterator[str]:
    """`replies`: to `QUESTIONS`; `cli`: what reaches the server from a shell, as far as that may be told."""
    memory, persistence, saving = map(told, replies)
    policy, maximum = memory.get("maxmemory_policy"), memory.get("maxmemory")
    if maximum == 0:
        yield (
            f"it has no maxmemory and will grow without bound: `{cli} CONFIG SET maxmemory 4gb` (as much as it may take), and "
            f"`{cli} CONFIG SET maxmemory-policy allkeys-lfu`"
        )
    elif policy is not None and not str(policy).startswith("allkeys-"):
        yield f"its maxmemory-policy is {policy}: once it is full it stores nothing new; `{cli} CONFIG SET maxmemory-policy allkeys-lfu`"
    if persistence.get("aof_enabled") == 1:
        yield f"it writes all that is remembered to disk (appendonly): `{cli} CONFIG SET appendonly no`"
    if saving.get("save") or (not saving and _number(persistence.get("rdb_saves")) > 0):
        yield f"it saves all that is remembered to disk (save), and forks for that: `{cli} CONFIG SET save ''`"


def told(reply: object) -> Mapping[str, object]:
    """What INFO or CONFIG GET tells; nothing where it was refused."""
    if not isinstance(reply, dict):
        return {}
    return {_text(key): _text(value) if isinstance(value, bytes) else value for key, value in reply.items()}


def _text(word: object) -> str:
    return word.decode(errors="replace") if isinstance(word, bytes) else str(word)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
