"""From the configuration to what a process needs: stage specs, cache specs. Pure; loads no weights, knows no Ray."""

from pipelines.settings.config import (
    AppConfig,
    DeploymentConfig,
    IngressConfig,
    LlmConfig,
    PartConfig,
    SourceConfig,
    VisionEncoderConfig,
)
from pipelines.settings.derived import batch_items, prefill_chunk_tokens
from pipelines.settings.private_redis import embedded_name
from pipelines.settings.replica_spec import CacheSpec
from stages.checkpoints.checkpoint import Contents, LoadOptions, Source
from stages.contract.limits import BatchLimits
from stages.host.registry import StageSpec
from stages.llm.settings import LlmSettings


def stage_specs(config: AppConfig) -> dict[str, StageSpec]:
    """MODEL.PART -> spec, for every stage of every model."""
    return {
        f"{name}.{part}": stage_spec(f"{name}.{part}", settings)
        for name, model in config.models.items()
        for part, settings in model.parts().items()
    }


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


def torch_threads(home: DeploymentConfig | IngressConfig) -> int | None:
    """None: as many as there are cores."""
    return None if home.torch_threads == "auto" else home.torch_threads


def cache_spec(config: AppConfig, app_name: str) -> CacheSpec:
    redis = config.cache.redis
    if redis is None:
        return CacheSpec(config.cache.memory_bytes)
    is_elsewhere = redis.url_env is not None or redis.url_file is not None
    return CacheSpec(
        config.cache.memory_bytes,
        None if redis.is_embedded or is_elsewhere else redis.url,
        redis.max_value_bytes,
        redis.ttl_s,
        redis.url_env,
        redis.url_file,
        embedded_name(app_name) if redis.is_embedded else None,
    )
