"""A Ray cluster of three nodes on this machine, a node for each speed, and on it the replicas of a mix: the product's own replica class,
with stages that sleep.

Decides how Ray and Serve are started and where a replica runs; who chooses among them is `benchmarks/fleet/live/sides.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.fleet.live.sleeping import SleepingBatches, SleepingRows
from benchmarks.fleet.mixes import STAGE, Mix, PacedPool
from pipelines.cluster import local_cluster
from pipelines.cluster.fork_server import command
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
    local_cluster._stay_on_loopback()
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.25")
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    first, *others = names
    cluster = Cluster(initialize_head=True, head_node_args={**_node(first), "include_dashboard": False})
    try:
        for name in others:
            cluster.add_node(**_node(name))
        environment = {"py_executable": command(stages=False)}
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error", runtime_env=environment)
        local_cluster._tell_errors_only()
        serve.start(proxy_location="Disabled")
        found = {node["NodeID"]: next(name for name in names if name in node["Resources"]) for node in ray.nodes()}
        yield Nodes(found)
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


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
        self.host.add(STAGE, kind(pool.speed, name), batch=BatchLimits(mix.max_rows), queue=QUEUE)

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
