"""All of Triptych in this process, with no Ray: the same pipelines, the same stages, one host.

For tests, for debugging with breakpoints, and for a machine too small for a cluster. Decides nothing that the cluster's form
decides otherwise: placement is all that differs.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from cache.tiered import TieredCache
from pipelines.client import LocalStageClient
from pipelines.jobs import StageCard
from pipelines.service import Triptych
from pipelines.settings.derived import pixels_in_flight
from pipelines.settings.pinning import pinned
from pipelines.settings.schema.config import AppConfig
from pipelines.settings.serve.replica_spec import CacheSpec, RedisSpec
from pipelines.settings.serve.specs import stage_specs
from pipelines.threads import Threads
from stages.contract.item import StageMetrics
from stages.host.host import StageHost
from stages.host.kinds.loading import load_into, make_ready
from stages.host.kinds.registry import StageSpec
from stages.images.pixel_budget import pixels_of_this_process
from stages.profiles.profile_files import Profiles, read_profiles


class LocalDirectory:
    """Tells of stages in this process: they are ready as soon as they are there."""

    def __init__(self, specs: Sequence[StageSpec], host: StageHost) -> None:
        self._specs, self._host = specs, host

    async def cards(self) -> Sequence[StageCard]:
        computing = {stage.stage: (stage.device, stage.dtype) for stage in self._host.metrics()}
        return [
            StageCard(
                name=spec.name,
                kind=spec.kind,
                deployment="local",
                device=computing[spec.name][0],
                dtype=computing[spec.name][1],
                replicas=1,
                ready=True,
                loader=spec.loader,
                source=spec.source.public_name(),
            )
            for spec in self._specs
        ]

    async def metrics(self) -> Sequence[StageMetrics]:
        return self._host.metrics()


@asynccontextmanager
async def one_process(
    config: AppConfig, *, redis_url: str | None = None, kv_redis_url: str | None = None
) -> AsyncIterator[Triptych]:
    """Loads every stage, yields the service, and ends every stage's thread. Remembers in memory, and in Redis where a URL is
    given (the configuration's own embedded servers are the cluster's affair): results, and pages."""
    config = pinned(config)
    pixels_of_this_process().limit(pixels_in_flight(config.limits))
    cache = _cache(config.cache.memory_bytes, redis_url)
    pages = _cache(config.cache.kv.memory_bytes, kv_redis_url, in_runs=True) if config.cache.kv is not None else None
    host = StageHost(cache=cache, pages=pages, replica="local")
    specs, threads = list(stage_specs(config).values()), Threads.new()
    profiles = read_profiles(Path(config.profiles)) if config.profiles else Profiles()
    try:
        make_ready(specs)
        for spec in specs:
            load_into(host, spec, profiles)
        yield Triptych(config, LocalStageClient(host), LocalDirectory(specs, host), threads)
    finally:
        threads.close()
        await host.close()


def _cache(memory_bytes: int, redis_url: str | None, *, in_runs: bool = False) -> TieredCache:
    return CacheSpec(memory_bytes, RedisSpec(url=redis_url, in_runs=in_runs) if redis_url is not None else None).open()
