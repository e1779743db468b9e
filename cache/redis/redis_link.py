"""Talking to a Redis server that may be slow, gone, or not there yet, without ever failing or waiting long for it.

Decides when to stop asking and when to try again, and says so in the log, once a change. How long an exchange may take, connecting
included, is `cache/redis/redis_connection.py`. Knows no values and no keys.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from cache.breaker import Breaker
from cache.redis.private_socket import Private
from cache.redis.redis_cluster import ClusterClient
from cache.redis.redis_connection import Client, Command, LimitedClient, Patience

Clock = Callable[[], float]
T = TypeVar("T")

log = logging.getLogger("triptych.cache")


class RedisLink:
    """Round trips to one server, or to one cluster, from any thread. Connects when it is first asked, and again whenever it must.
    `private`: only to a server of this user's own.

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
        private: Private | None = None,
        cluster: bool = False,
    ) -> None:
        self._client = client_of(url, patience, private=private, cluster=cluster)
        self._largest_write_bytes = largest_write_bytes
        self._breaker, self._clock = breaker, clock
        self._lock = threading.Lock()
        self._num_failures = self._num_opened = 0

    @property
    def where(self) -> str:
        """The server's address, for messages: without the password."""
        return self._client.where

    @property
    def shell(self) -> str:
        """What reaches the server from a shell: without the password."""
        return self._client.shell

    @property
    def num_failures(self) -> int:
        """Round trips that failed."""
        return self._num_failures

    @property
    def num_opened(self) -> int:
        """How often the server was given up, until it answered again."""
        return self._num_opened

    @property
    def is_up(self) -> bool:
        """Whether it has answered, as far as it was asked."""
        return self._breaker.is_closed

    def is_down(self) -> bool:
        """Whether asking is pointless right now."""
        return self._breaker.is_open(self._clock())

    def ask(self, commands: Sequence[Command], *, writing: bool = False) -> list[object] | None:
        """One round trip: the replies in order, an exception object for a command that the server refused. None: no answer."""
        written = self._largest_write_bytes if writing else 0
        return self._tried(lambda: self._client.ask(commands, written))

    def ask_nodes(self, commands: Sequence[Command]) -> list[list[object]] | None:
        """The same of each server, where there are several."""
        return self._tried(lambda: self._client.ask_nodes(commands))

    def _tried(self, ask: Callable[[], T]) -> T | None:
        if not self._breaker.allows(self._clock()):
            return None
        try:
            replies = ask()
        except Exception as error:  # connection, timeout, protocol, TLS: all the same to a cache
            self._failed(error)
            return None
        if self._breaker.succeeded():
            log.info("Redis at %s answers again", self.where)
        return replies

    def close(self) -> None:
        """Idempotent."""
        self._client.close()

    def _failed(self, error: Exception) -> None:
        with self._lock:
            self._num_failures += 1
        if self._breaker.failed(self._clock()):
            with self._lock:
                self._num_opened += 1
            log.warning(
                "Redis at %s does not answer (%s); going on without it until it does", self.where, self._client.told(error)
            )


def client_of(url: str, patience: Patience, *, private: Private | None = None, cluster: bool = False) -> Client:
    """Raises `ValueError` for a URL that is none, or none of a cluster's."""
    return ClusterClient(url, patience) if cluster else LimitedClient(url, patience, private=private)
