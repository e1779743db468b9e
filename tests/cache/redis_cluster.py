"""A real Redis Cluster of three nodes on loopback, for tests."""

import time
from pathlib import Path

from redis.crc import key_slot

from pipelines.free_port import free_port
from tests.cache.redis_server import RedisServer

NUM_SLOTS = 16384


class RedisCluster:
    """`settings`: of each node. A node that is down fails its own keys only."""

    def __init__(self, folder: Path, num_nodes: int = 3, **settings: str) -> None:
        self.nodes: list[RedisServer] = []
        own = {"cluster_enabled": "yes", "cluster_require_full_coverage": "no", "cluster_node_timeout": "60000"}
        for number in range(num_nodes):
            (home := folder / str(number)).mkdir()
            bus = {"cluster_port": str(free_port())}
            self.nodes.append(RedisServer(home, tcp=True, more=own | bus | settings))
        try:
            self._start([int(node.settings["cluster_port"]) for node in self.nodes])
        except BaseException:
            self.kill()
            raise

    def _start(self, buses: list[int]) -> None:
        num_nodes = len(self.nodes)
        for number, node in enumerate(self.nodes):
            first, last = (NUM_SLOTS * at // num_nodes for at in (number, number + 1))
            with node.start().client() as client:
                client.execute_command("CLUSTER ADDSLOTSRANGE", first, last - 1)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                client.execute_command("CLUSTER MEET", "127.0.0.1", self.nodes[0].port, buses[0])
        deadline = time.monotonic() + 60
        while not all(self._is_whole(node) for node in self.nodes):
            if time.monotonic() > deadline:
                raise RuntimeError("the nodes did not find each other")

    @property
    def url(self) -> str:
        return self.nodes[0].url

    def node_of(self, key: str) -> int:
        """Which node has the key."""
        return key_slot(key.encode()) * len(self.nodes) // NUM_SLOTS

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def _is_whole(self, node: RedisServer) -> bool:
        with node.client() as client:
            told = client.execute_command("CLUSTER SLOTS")
            state = client.execute_command("CLUSTER", "INFO")
            return b"cluster_state:ok" in state and sum(last - first + 1 for first, last, *_ in told) == NUM_SLOTS
