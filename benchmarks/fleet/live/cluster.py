"""A Ray cluster of three nodes on this machine, a node for each speed, and on it the replicas of a mix: the product's own replica class,
with stages that sleep.

Decides where a replica runs; who chooses among them is `benchmarks/fleet/live/sides.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.fleet.live.sleeping import Longer, SleepingBatches, SleepingRows
from benchmarks.fleet.mixes import STAGE, Mix, PacedPool
from benchmarks.servers.nodes import several_nodes
from pipelines.cluster.replica import StageReplica
from pipelines.settings.serve.replica_spec import CacheSpec, ReplicaSpec
from stages.contract.limits import BatchLimits, QueueLimits

QUEUE = QueueLimits(max_items=100_000)
CPUS_A_NODE, CPUS_A_REPLICA = 4, 1.9  # Ray's figures: two replicas to a node, wherever Serve puts them
OBJECT_STORE_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True)
class Nodes:
    """Node id -> name of the pool whose devices it has."""

    pools: Mapping[str, str]


@contextmanager
def three_nodes(names: tuple[str, ...]) -> Iterator[Nodes]:
    """Ray and Serve run while inside. `names`: of the nodes' pools, each also a resource there."""
    with several_nodes([_node(name) for name in names], proxy_location="Disabled"):
        import ray

        found = {node["NodeID"]: next(name for name in names if name in node["Resources"]) for node in ray.nodes()}
        yield Nodes(found)


def _node(name: str) -> dict[str, Any]:
    return {"num_cpus": CPUS_A_NODE, "resources": {name: 1.0}, "object_store_memory": OBJECT_STORE_BYTES}


class SleepingReplica(StageReplica):
    """As fast as the node that it finds itself on."""

    def __init__(self, deployment: str, nodes: Nodes, mix: Mix) -> None:
        import ray

        super().__init__(ReplicaSpec(deployment, (), CacheSpec(memory_bytes=0), torch_threads=1))
        name = nodes.pools[ray.get_runtime_context().get_node_id()]
        pool = next(pool for pool in mix.pools if pool.name == name)
        kind = SleepingRows if mix.is_iterative else SleepingBatches
        self._stage = kind(pool.speed, name)
        self.host.add(STAGE, self._stage, batch=BatchLimits(mix.max_rows), queue=QUEUE)

    def longer(self) -> tuple[str, Longer]:
        """The pool whose devices it has, and by how much steps have been longer than they."""
        return self._stage.device, self._stage.watch.longer

    async def __del__(self) -> None:
        await self.close()


def application(name: str, mix: Mix, nodes: Nodes, *, pool: PacedPool | None, num_replicas: int, **options: Any) -> Any:
    """A deployment of that name. `pool`: on its node; None: wherever there is room. `options`: Serve's."""
    from ray import serve

    resources = {pool.name: 0.01} if pool is not None else {}
    deployment = serve.deployment(SleepingReplica).options(
        name=name,
        num_replicas=num_replicas,
        ray_actor_options={"num_cpus": CPUS_A_REPLICA, "resources": resources},
        graceful_shutdown_timeout_s=5,
        graceful_shutdown_wait_loop_s=0.2,
        **options,
    )
    return deployment.bind(name, nodes, replace(mix, requests=()))
