"""Connections to a Redis server on which a whole exchange has a limit, not each of its reads and writes: a server that drips bytes, a name
that isn't resolved, a handshake that doesn't end take no longer than one that says nothing. And connections to a server of our own, which
are to nobody else's.

Decides when an exchange has taken too long. Knows no commands and no values.
"""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.retry import Retry

from cache.redis.private_socket import Private, refuse_strangers, refuse_unless_private

Command = tuple[str | bytes | int, ...]
"""("GET", "key"): a command and its arguments."""

MAX_CONNECTING = 4
"""Threads of one client that connect, of which each may hang for as long as the machine's resolver lets it."""

_READ_BYTES = 256 * 2**10  # the default of 32 KB takes three times as long for a value of 300 KB


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that an exchange may take, and longer by what has come or is to be written: whoever gives fewer bytes a second is not
    waited for."""

    timeout_s: float = 1.0
    slowest_bytes_per_s: float = 20e6

    def for_bytes(self, num_bytes: int) -> float:
        return self.timeout_s + num_bytes / self.slowest_bytes_per_s


class Exchange:
    """One round trip from now on, connecting included. `written`: bytes that are to be sent."""

    def __init__(self, patience: Patience, written: int = 0) -> None:
        self._patience, self._num_bytes, self._began = patience, written, time.monotonic()

    def remaining_s(self) -> float:
        """More than 0. Raises `TimeoutError`."""
        left_s = self.left_s()
        if left_s <= 0:
            raise TimeoutError("the exchange takes too long")
        return left_s

    @property
    def is_over(self) -> bool:
        return self.left_s() <= 0

    def received(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes

    def left_s(self) -> float:
        return self._patience.for_bytes(self._num_bytes) - (time.monotonic() - self._began)


class Client(Protocol):
    """See `LimitedClient`."""

    where: str
    shell: str

    def ask(self, commands: Sequence[Command], written: int = 0) -> list[object]: ...

    def ask_nodes(self, commands: Sequence[Command]) -> list[list[object]]: ...

    def nodes(self) -> "list[LimitedClient]": ...

    def told(self, error: Exception) -> str: ...

    def close(self) -> None: ...


class LimitedClient:
    """Round trips from any thread, each within its exchange. Raises `ValueError` for a URL that is none (redis://, rediss://,
    unix://). `private`: the URL is of a unix socket of a server of this user's own."""

    def __init__(self, url: str, patience: Patience, *, private: Private | None = None) -> None:
        given = parse_url(url)  # type: ignore[no-untyped-call]
        kind = _LIMITED.get(given.pop("connection_class", Connection))
        if kind is None or (private is not None and kind is not _LimitedUnix):
            raise ValueError(
                "connection_class is not for a URL to say" if kind is None else "only a unix socket can be private"
            )
        self._patience, self._of_thread = patience, threading.local()
        # No retries (the breaker decides), and the old protocol: it saves a greeting and is spoken by every server.
        ours = {
            "socket_timeout": patience.timeout_s,
            "socket_connect_timeout": patience.timeout_s,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "driver_info": None,  # its greeting costs two round trips, and is refused by a server that allows the needful only
            "socket_read_size": _READ_BYTES,
        }
        options = {**ours, **given, "limits": _Limits(self._exchange, threading.BoundedSemaphore(MAX_CONNECTING), private)}
        self._pool = ConnectionPool(connection_class=kind, **options)
        self._redis = redis.Redis(connection_pool=self._pool)
        self.where = str(given.get("path") or f"{given.get('host', 'localhost')}:{given.get('port', 6379)}")
        self.shell = f"redis-cli {_shell_options(kind, given)}"
        self._password = str(given.get("password") or "")

    def ask(self, commands: Sequence[Command], written: int = 0, within: Exchange | None = None) -> list[object]:
        """The replies in order, an exception object for a command that the server refused. `within`: what has begun already. Raises what
        redis-py does."""
        self._of_thread.exchange = within or Exchange(self._patience, written)
        try:
            # Without a transaction, so that the server may serve others between two large values.
            with self._redis.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
                replies: list[object] = pipeline.execute(raise_on_error=False)
                return replies
        finally:
            del self._of_thread.exchange

    def ask_nodes(self, commands: Sequence[Command]) -> list[list[object]]:
        """The replies of each node that holds values: here of the one."""
        return [self.ask(commands)]

    def nodes(self) -> list["LimitedClient"]:
        """One client for each node that holds values."""
        return [self]

    def told(self, error: Exception) -> str:
        """What may be said of an error: servers quote what they don't understand, the password that they were sent included."""
        return str(error).replace(self._password, "***") if self._password else str(error)

    def close(self) -> None:
        """Idempotent."""
        self._pool.disconnect()

    def _exchange(self) -> Exchange:
        found: Exchange | None = getattr(self._of_thread, "exchange", None)
        return found if found is not None else Exchange(self._patience)


@dataclass(frozen=True, slots=True)
class _Limits:
    """Of one client's connections. `exchange`: the calling thread's."""

    exchange: Callable[[], Exchange]
    connecting: threading.BoundedSemaphore
    private: Private | None


class _LimitedSocket:
    """A connected socket for redis-py: what is sent and received counts towards the exchange of whoever calls."""

    def __init__(self, connected: socket.socket, exchange: Callable[[], Exchange]) -> None:
        self._socket, self._exchange = connected, exchange

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def recv_into(self, buffer: Any, *more: int) -> int:
        exchange = self._exchange()
        self._socket.settimeout(exchange.remaining_s())
        count = self._socket.recv_into(buffer, *more)
        exchange.received(count)
        return count

    def recv(self, size: int, *flags: int) -> bytes:
        exchange = self._exchange()
        self._socket.settimeout(exchange.remaining_s())
        data = self._socket.recv(size, *flags)
        exchange.received(len(data))
        return data

    def sendall(self, data: Any) -> None:
        self._socket.settimeout(self._exchange().remaining_s())
        self._socket.sendall(data)


class _Limited:
    """Over any of redis-py's connections: how it connects."""

    def __init__(self, *, limits: _Limits, **options: Any) -> None:
        self._limits = limits
        super().__init__(**options)


class _LimitedTcp(_Limited, Connection):
    def _connect(self) -> Any:
        return _LimitedSocket(_in_time(super()._connect, self._limits), self._limits.exchange)


class _LimitedTls(_Limited, SSLConnection):
    def _connect(self) -> Any:
        return _LimitedSocket(_in_time(super()._connect, self._limits), self._limits.exchange)


class _LimitedUnix(_Limited, UnixDomainSocketConnection):
    def _connect(self) -> Any:
        if self._limits.private is None:
            return _LimitedSocket(super()._connect(), self._limits.exchange)  # type: ignore[no-untyped-call]
        self.path = str(self._limits.private())
        refuse_unless_private(Path(self.path).parent)
        connected = super()._connect()  # type: ignore[no-untyped-call]
        try:
            refuse_strangers(connected)
        except OSError:
            connected.close()
            raise
        return _LimitedSocket(connected, self._limits.exchange)


def _shell_options(kind: Any, given: dict[str, Any]) -> str:
    if kind is _LimitedUnix:
        return f"-s {given.get('path')}"
    tls = " --tls" if kind is _LimitedTls else ""
    return f"-h {given.get('host', 'localhost')} -p {given.get('port', 6379)}{tls}"


_LIMITED: dict[Any, Any] = {Connection: _LimitedTcp, SSLConnection: _LimitedTls, UnixDomainSocketConnection: _LimitedUnix}


def _in_time(connect: Callable[[], socket.socket], limits: _Limits) -> socket.socket:
    """On a thread of its own: nothing ends a look-up of a name before the machine's resolver does. One that comes too late closes what
    it has connected."""
    if not limits.connecting.acquire(timeout=limits.exchange().remaining_s()):
        raise TimeoutError(f"{MAX_CONNECTING} others are still connecting")
    connecting = _Connecting(connect, limits.connecting)
    try:
        threading.Thread(target=connecting.run, name="redis-connecting", daemon=True).start()
    except RuntimeError:  # the system has no more
        limits.connecting.release()
        raise
    return connecting.result(limits.exchange())


class _Connecting:
    def __init__(self, connect: Callable[[], socket.socket], places: threading.BoundedSemaphore) -> None:
        self._connect, self._places = connect, places
        self._done, self._lock = threading.Event(), threading.Lock()
        self._connected: socket.socket | None = None
        self._error: Exception | None = None
        self._given_up = False

    def run(self) -> None:
        try:
            connected = self._connect()
        except Exception as error:
            self._error = error
        else:
            with self._lock:
                if self._given_up:
                    connected.close()
                else:
                    self._connected = connected
        finally:
            self._places.release()
            self._done.set()

    def result(self, within: Exchange) -> socket.socket:
        """Raises what connecting did, or `TimeoutError`."""
        self._done.wait(max(within.left_s(), 0))
        with self._lock:
            if self._connected is not None:
                return self._connected
            self._given_up = True
        if self._error is not None:
            raise self._error
        raise TimeoutError("connecting takes too long")
