"""One stage in two pools of unlike speed, on real Serve: replicas of the product's own class, with an encoder that only lets time pass."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve

from pipelines.cluster.replica import StageReplica
from pipelines.cluster.serve_client import ServeStageClient
from pipelines.cluster.stage_deployment import router_config
from pipelines.settings.serve.replica_spec import CacheSpec, ReplicaSpec
from stages.contract.limits import BatchLimits, QueueLimits
from tests.stages.fakes import Adder, Sum, Total

STAGE = "m.encoder"
BATCH_S = {"fast": 0.15, "slow": 0.45}
MAX_BATCH = 4
CAPACITY = sum(MAX_BATCH / seconds for seconds in BATCH_S.values())
"""Items a second, with full batches."""


class Paced(Adder):
    """A batch takes as long as the pool says, whatever is in it."""

    def __init__(self, batch_s: float) -> None:
        super().__init__()
        self._batch_s = batch_s

    def run(self, batch: Sequence[Sum]) -> Sequence[Total]:
        threading.Event().wait(self._batch_s)
        return super().run(batch)


class Replica(StageReplica):
    def __init__(self, pool: str) -> None:
        super().__init__(ReplicaSpec(pool, (), CacheSpec(memory_bytes=2**20), torch_threads=1))
        self.host.add(STAGE, Paced(BATCH_S[pool]), batch=BatchLimits(MAX_BATCH), queue=QueueLimits(512))

    async def __del__(self) -> None:
        await self.close()


@contextmanager
def paced_pools() -> Iterator[ServeStageClient]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="Disabled")
        yield ServeStageClient({pool: deployed(pool) for pool in BATCH_S}, {STAGE: tuple(BATCH_S)})
    finally:
        serve.shutdown()
        ray.shutdown()


def deployed(pool: str) -> Any:
    options: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0.1}, "graceful_shutdown_timeout_s": 1}
    deployment = serve.deployment(Replica).options(
        name=pool, max_ongoing_requests=512, request_router_config=router_config(), **options
    )
    return serve.run(deployment.bind(pool), name=pool, route_prefix=None)
