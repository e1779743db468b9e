"""A Ray cluster of one node for deployments that a benchmark makes itself, started as `triptych serve` starts it.

Uses what `pipelines/cluster/local_cluster.py` keeps to itself, so that Ray and Serve have the very settings of the product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipelines.cluster import local_cluster
from pipelines.cluster.local_cluster import HttpAddress
from pipelines.cluster.replica import StageReplica
from pipelines.settings.schema.config import QueueConfig
from pipelines.settings.serve.replica_spec import CacheSpec, ReplicaSpec
from stages.contract.limits import BatchLimits
from stages.contract.stage import IterativeStage, OneShotStage
from stages.device.cores import available_cores

MakeStage = Callable[[], OneShotStage[Any, Any, Any] | IterativeStage[Any, Any, Any]]


@contextmanager
def cluster(address: HttpAddress | None = None) -> Iterator[None]:
    """`address`: where Serve's HTTP proxy listens; None: no proxy."""
    local_cluster._start_ray(available_cores(), fork_server=True)
    try:
        if address is not None:
            local_cluster._start_serve(address)
        else:
            _start_without_proxy()
        yield
    finally:
        local_cluster._stop()


def _start_without_proxy() -> None:
    from ray import serve
    from ray.serve.config import ProxyLocation

    serve.start(proxy_location=ProxyLocation.Disabled)


class MadeReplica(StageReplica):
    """The product's replica, hosting a stage that is made here instead of loaded from a checkpoint."""

    def __init__(self, name: str, make: MakeStage, batch: BatchLimits, torch_threads: int = 1, table: Any = None) -> None:
        spec = ReplicaSpec(deployment=name, stages=(), cache=CacheSpec(memory_bytes=0), torch_threads=torch_threads)
        super().__init__(spec, table)
        self._host.add(name, make(), batch=batch, queue=QueueConfig().limits())


def deployed(
    replica: Callable[..., Any], arguments: Sequence[Any], *, name: str, max_ongoing_requests: int, is_pool: bool = False
) -> Any:
    """An application of one replica, with the product's settings for a stage's deployment. `is_pool`: with its router, too."""
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    from pipelines.cluster.stage_deployment import MAX_BACKOFF_S, router_config

    deployment = serve.deployment(replica).options(
        name=name,
        num_replicas=1,
        ray_actor_options={"num_cpus": 0.1},
        max_ongoing_requests=max_ongoing_requests,
        graceful_shutdown_wait_loop_s=0.2,
        request_router_config=router_config() if is_pool else RequestRouterConfig(max_backoff_s=MAX_BACKOFF_S),
    )
    return deployment.bind(*arguments)
