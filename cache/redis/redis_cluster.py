"""A Redis Cluster as one server: each command goes to the node that has its key, and a whole exchange, with all nodes that it takes, has
one limit.

Decides which node that is (`CLUSTER SLOTS`, learnt anew where a node has moved or is gone), and that a node which is down fails its own
keys only. redis-py's `RedisCluster` is not used: it connects when it is made, fails all of an exchange with one node, and then sends its
commands one by one. Knows no values.
"""

import threading
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from redis.crc import key_slot
from redis.exceptions import ClusterDownError, MovedError

from cache.breaker import Breaker
from cache.redis.redis_connection import Command, Exchange, LimitedClient, Patience

Address = tuple[str, int]

_WHO_HAS_WHAT: Command = ("CLUSTER", "SLOTS")


class NodeDown(ConnectionError):
    """In place of a reply: the node that has the key doesn't answer, or is not asked for now."""


@dataclass(frozen=True, slots=True)
class _Slots:
    """Who has which keys: from each of `starts` to the next, the node at the same place in `nodes`."""

    starts: tuple[int, ...] = ()
    nodes: tuple[Address, ...] = ()

    def node_of(self, key: str | bytes | int) -> Address:
        place = bisect_right(self.starts, key_slot(key if isinstance(key, bytes) else str(key).encode())) - 1
        return self.nodes[max(place, 0)]


@dataclass(frozen=True, slots=True)
class _Node:
    client: LimitedClient
    breaker: Breaker


class ClusterClient:
    """Round trips from any thread, as `LimitedClient` makes them. `url`: redis:// or rediss://, of any node; the others are reached with
    the same name, password and TLS. Commands have their key in the second place."""

    def __init__(self, url: str, patience: Patience) -> None:
        self._url, self._patience = url, patience
        self._first = LimitedClient(url, patience)
        if urlsplit(url).scheme == "unix":
            raise ValueError("a cluster is not on a unix socket")
        self.where = f"{self._first.where} (cluster)"
        self.shell = f"redis-cli --cluster call {self._first.where}"
        self._lock = threading.Lock()
        self._nodes: dict[Address, _Node] = {}
        self._slots = _Slots()
        self._is_stale = True
        self._answered: Address | None = None  # the last that did

    def ask(self, commands: Sequence[Command], written: int = 0) -> list[object]:
        """Raises where no node answers."""
        exchange = Exchange(self._patience, written)
        if self._is_stale:
            self._learn(exchange)
        replies = self._ask_each(commands, exchange)
        moved = [at for at, reply in enumerate(replies) if isinstance(reply, MovedError)]
        if moved:
            self._learn(exchange)
            for at, reply in zip(moved, self._ask_each([commands[at] for at in moved], exchange), strict=True):
                replies[at] = reply
        down = [reply for reply in replies if isinstance(reply, NodeDown)]
        if down and len(down) == len(replies):
            raise down[0]
        return replies

    def ask_nodes(self, commands: Sequence[Command]) -> list[list[object]]:
        exchange = Exchange(self._patience)
        self._learn(exchange)
        return [self._ask_node(address, commands, exchange) for address in dict.fromkeys(self._slots.nodes)]

    def nodes(self) -> list[LimitedClient]:
        """Raises where nobody tells which there are."""
        self._learn(Exchange(self._patience))
        return [self._node(address).client for address in dict.fromkeys(self._slots.nodes)]

    def told(self, error: Exception) -> str:
        return self._first.told(error)

    def close(self) -> None:
        with self._lock:
            nodes = list(self._nodes.values())
        for client in (self._first, *(node.client for node in nodes)):
            client.close()

    def _ask_each(self, commands: Sequence[Command], exchange: Exchange) -> list[object]:
        """A node's commands in one go, one node after another; those last that might take all the time."""
        slots, of_node = self._slots, dict[Address, list[int]]()
        for at, command in enumerate(commands):
            of_node.setdefault(slots.node_of(command[1]), []).append(at)
        replies: list[object] = [None] * len(commands)
        for address, places in sorted(of_node.items(), key=lambda each: self._node(each[0]).breaker.num_failures):
            for at, reply in zip(places, self._ask_node(address, [commands[at] for at in places], exchange), strict=True):
                replies[at] = reply
        return replies

    def _ask_node(self, address: Address, commands: Sequence[Command], exchange: Exchange) -> list[object]:
        node = self._node(address)
        if exchange.is_over or not node.breaker.allows(time.monotonic()):  # in this order: who is allowed to try must tell
            return [NodeDown(f"{address[0]}:{address[1]} is not asked") for _ in commands]
        try:
            replies = node.client.ask(commands, within=exchange)
        except Exception as error:
            node.breaker.failed(time.monotonic())
            self._is_stale = True
            return [NodeDown(f"{address[0]}:{address[1]}: {self.told(error)}") for _ in commands]
        node.breaker.succeeded()
        self._answered = address
        self._is_stale = self._is_stale or any(isinstance(reply, ClusterDownError) for reply in replies)
        return replies

    def _learn(self, exchange: Exchange) -> None:
        """Of whoever answered last, of the others, or of the URL's. Raises where nobody tells."""
        with self._lock:
            known = sorted(
                self._nodes, key=lambda address: (self._nodes[address].breaker.num_failures, address != self._answered)
            )
        for address in known:
            (reply,) = self._ask_node(address, [_WHO_HAS_WHAT], exchange)
            if isinstance(reply, list):
                self._take(reply, address[0])
                return
        (reply,) = self._first.ask([_WHO_HAS_WHAT], within=exchange)
        self._take(reply, self._first.where.rpartition(":")[0])

    def _take(self, reply: object, asked: str) -> None:
        self._slots, self._is_stale = _slots_of(reply, asked), False
        with self._lock:
            gone = [self._nodes.pop(address) for address in list(self._nodes) if address not in self._slots.nodes]
        for node in gone:
            node.client.close()

    def _node(self, address: Address) -> _Node:
        with self._lock:
            if address not in self._nodes:
                self._nodes[address] = _Node(LimitedClient(_url_of(self._url, address), self._patience), Breaker())
            return self._nodes[address]


def _slots_of(reply: object, asked: str) -> _Slots:
    """Of what CLUSTER SLOTS tells: [first, last, [host, port, ...], ...]. Raises where it is nothing of the kind."""
    if isinstance(reply, Exception):
        raise reply
    if not (isinstance(reply, list) and reply):
        raise NodeDown("no node of the cluster has keys")
    ranges = sorted((int(each[0]), _address(each[2], asked)) for each in reply)
    return _Slots(tuple(first for first, _ in ranges), tuple(address for _, address in ranges))


def _address(told: Sequence[bytes | int | None], asked: str) -> Address:
    """A node that doesn't know what it is called is called what it was asked by."""
    host = told[0]
    return (host.decode() if isinstance(host, bytes) and host not in (b"", b"?") else asked), int(told[1] or 0)


def _url_of(url: str, address: Address) -> str:
    """Of another node: the same but for where it is."""
    parts, (host, port) = urlsplit(url), address
    login, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{login}{at}{f'[{host}]' if ':' in host else host}:{port}").geturl()
