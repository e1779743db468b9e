"""From the configuration to what a process needs: stage specs, cache specs. Pure; loads no weights, knows no Ray."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from pipelines.settings.derived import Home, batch_items, prefill_chunk_tokens
from pipelines.settings.private_redis import embedded_name
from pipelines.settings.schema.config import (
    AppConfig,
    LlmConfig,
    PartConfig,
    SourceConfig,
    VisionEncoderConfig,
)
from pipelines.settings.schema.remembering import RedisConfig
from pipelines.settings.serve.replica_spec import CacheSpec, RedisSpec
from stages.checkpoints.checkpoint import Contents, LoadOptions, Source
from stages.contract.limits import BatchLimits
from stages.host.kinds.registry import StageSpec
from stages.llm.settings import LlmSettings

REDIS, KV = "redis", "kv"
PAGED = ("llm", "denoiser")


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """`name`: of its folder (`pipelines/settings/private_redis.py`)."""

    deployment: str
    name: str
    max_memory_bytes: int


def stage_specs(config: AppConfig) -> dict[str, StageSpec]:
    """MODEL.PART -> spec, for every stage of every model, as it is in its first pool."""
    found: dict[str, StageSpec] = {}
    homes: tuple[Home, ...] = (config.ingress, *config.placement().values())
    for home in homes:
        found |= {name: stage_spec(name, part) for name, part in config.hosted(home).items() if name not in found}
    return {name: found[name] for name in config.stage_names()}


def stage_spec(name: str, part: PartConfig) -> StageSpec:
    """`name`: MODEL.PART."""
    projector = part.projector if isinstance(part, VisionEncoderConfig) else None
    return StageSpec(
        name=name,
        kind=name.rpartition(".")[2],
        loader=str(getattr(part, "loader", "")),
        source=_source(part.source),
        options=LoadOptions(device=part.device, dtype=part.dtype, compile=part.compile),
        batch=BatchLimits(max_items=batch_items(part), max_cost=part.batch.max_cost),
        queue=part.queue.limits(),
        max_step_s=part.max_step_s,
        max_load_s=part.max_load_s,
        projector=_source(projector) if projector is not None else None,
        settings=LlmSettings(
            part.num_slots, part.max_context_tokens, prefill_chunk_tokens(part), part.page_tokens, part.page_dtype
        )
        if isinstance(part, LlmConfig)
        else None,
        deployed=Contents(part.contents.settings, part.contents.whole) if part.contents is not None else None,
    )


def _source(source: SourceConfig) -> Source:
    return Source(demo=source.demo, folder=source.folder, hub=source.hub, revision=source.revision)


def torch_threads(home: Home) -> int | None:
    """None: as many as there are cores."""
    return None if home.torch_threads == "auto" else home.torch_threads


def cache_spec(config: AppConfig, app_name: str) -> CacheSpec:
    """Where results are remembered."""
    return CacheSpec(config.cache.memory_bytes, _redis_spec(config.cache.redis, "cache.redis", embedded_name(app_name)))


def pages_spec(config: AppConfig, app_name: str) -> CacheSpec | None:
    """Where pages are remembered; None: nowhere."""
    kv = config.cache.kv
    if kv is None:
        return None
    redis = _redis_spec(kv.redis, "cache.kv.redis", embedded_name(app_name, KV))
    return CacheSpec(kv.memory_bytes, replace(redis, in_runs=True) if redis is not None else None)


def computes_in_pages(stages: Collection[str]) -> bool:
    """Whether any of these stages, MODEL.PART, may."""
    return any(stage.rpartition(".")[2] in PAGED for stage in stages)


def embedded_servers(config: AppConfig, app_name: str) -> Sequence[EmbeddedServer]:
    """Those that the configuration has run."""
    redis, kv = config.cache.redis, config.cache.kv
    found = []
    if redis is not None and redis.is_embedded:
        found.append(EmbeddedServer(REDIS, embedded_name(app_name), redis.max_memory_bytes))
    if kv is not None and kv.redis is not None and kv.redis.is_embedded and computes_in_pages(config.stage_names()):
        found.append(EmbeddedServer(f"{REDIS}-{KV}", embedded_name(app_name, KV), kv.redis.max_memory_bytes))
    return found


def _redis_spec(redis: RedisConfig | None, setting: str, embedded: str) -> RedisSpec | None:
    if redis is None:
        return None
    is_elsewhere = redis.url_env is not None or redis.url_file is not None
    return RedisSpec(
        setting,
        url=None if redis.is_embedded or is_elsewhere else redis.url,
        url_env=redis.url_env,
        url_file=redis.url_file,
        embedded=embedded if redis.is_embedded else None,
        cluster=redis.cluster,
        part_bytes=redis.part_bytes,
        max_value_bytes=redis.max_value_bytes,
        ttl_s=redis.ttl_s,
        ttl_s_of=redis.ttl_s_of,
    )
