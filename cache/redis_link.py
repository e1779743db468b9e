"""Talking to a Redis server that may be slow, gone, or not there yet, without ever failing or waiting long for it.

Decides timeouts, when to stop asking and when to try again, and says so in the log, once a change. Knows no values and no
keys.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cache.breaker import Breaker

Command = tuple[str | bytes | int, ...]
"""("GET", "key"): a command and its arguments."""

Clock = Callable[[], float]

_READ_BYTES = 256 * 2**10  # the default of 32 KB takes three times as long for a value of 300 KB

log = logging.getLogger("triptych.cache")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds without progress after which an exchange is given up; a write, sent whole, gets longer by its size."""

    timeout_s: float = 1.0
    slowest_bytes_per_s: float = 20e6

    def for_bytes(self, num_bytes: int) -> float:
        return self.timeout_s + num_bytes / self.slowest_bytes_per_s


class RedisLink:
    """Round trips to one server, from any thread. Connects when it is first asked, and again whenever it must.

    Raises `ValueError` for a URL that is none (redis://, rediss://, unix://); nothing else, ever.
    """

    def __init__(
        self,
        url: str,
        *,
        patience: Patience,
        largest_write_bytes: int,
        breaker: Breaker,
        clock: Clock = time.monotonic,
    ) -> None:
        self._reader = _client(url, patience.timeout_s, patience.timeout_s)
        self._writer = _client(url, patience.for_bytes(largest_write_bytes), patience.timeout_s)
        self._breaker, self._clock = breaker, clock
        self._where = _where(self._reader)
        self._lock = threading.Lock()
        self._num_failures = 0

    @property
    def where(self) -> str:
        """The server's address, for messages: without the password."""
        return self._where

    @property
    def num_failures(self) -> int:
        """Round trips that failed."""
        return self._num_failures

    def is_down(self) -> bool:
        """Whether asking is pointless right now."""
        return self._breaker.is_open(self._clock())

    def ask(self, commands: Sequence[Command], *, writing: bool = False) -> list[object] | None:
        """One round trip: the replies in order, an exception object for a command that the server refused. None: no answer."""
        if not self._breaker.allows(self._clock()):
            return None
        try:
            # Without a transaction, so that the server may serve others between two large values.
            with (self._writer if writing else self._reader).pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
                replies: list[object] = pipeline.execute(raise_on_error=False)
        except Exception as error:  # connection, timeout, protocol, TLS: all the same to a cache
            self._failed(error)
            return None
        if self._breaker.succeeded():
            log.info("Redis at %s answers again", self._where)
        return replies

    def close(self) -> None:
        """Idempotent."""
        self._reader.close()
        self._writer.close()

    def _failed(self, error: Exception) -> None:
        with self._lock:
            self._num_failures += 1
        if self._breaker.failed(self._clock()):
            log.warning("Redis at %s does not answer (%s); going on without it until it does", self._where, error)


def _client(url: str, timeout_s: float, connect_timeout_s: float) -> redis.Redis:
    """No retries (the breaker decides), and the old protocol: it saves a greeting and is spoken by every server."""
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=connect_timeout_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        socket_read_size=_READ_BYTES,
    )


def _where(client: redis.Redis) -> str:
    settings = client.connection_pool.connection_kwargs
    return str(settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}")
