"""From a description of requests to the work that each stage has with one.

Pure. Decides, for each pipeline, which stages a request visits, in which order, and how much of each stage's own unit it is: as the stages
themselves count it (their `weigh`), for an average request.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from pipelines.planning.fleet import Demand, RequestClass, Slo
from pipelines.planning.reading.workload import ClassConfig, SloConfig, WorkConfig
from pipelines.settings.derived import pixels, prefill_chunk_tokens
from pipelines.settings.schema.config import AppConfig, ImageTextModel, ModelConfig, TextToImageModel
from stages.contract.errors import ConfigurationError
from stages.contract.work import Work

DEFAULT_STEPS = 50  # of a model whose checkpoint alone knows
EMBEDDED_TOKENS = 77  # a text is computed at the model's full context
LATENT_BYTES = 4 * 16  # of one position, in float32: no model has more channels
PIXEL_BYTES = 3


def request_classes(described: Mapping[str, ClassConfig], config: AppConfig) -> tuple[RequestClass, ...]:
    """Raises `ConfigurationError` for a model or a part that there isn't."""
    return tuple(_class(name, each, config) for name, each in described.items())


def _class(name: str, each: ClassConfig, config: AppConfig) -> RequestClass:
    if each.model not in config.models:
        raise ConfigurationError(f"classes.{name}.model: {each.model!r} is not one of {', '.join(config.models)}")
    model = config.models[each.model]
    parts = model.parts()
    for setting in ("remembered", "work"):
        unknown = [part for part in getattr(each, setting) if part not in parts]
        if unknown:
            raise ConfigurationError(
                f"classes.{name}.{setting}: {unknown[0]!r} is not one of {each.model}'s {', '.join(parts)}"
            )
    demands = [
        replace(demand, stage=f"{each.model}.{part}")
        for part, demand in _visited(each, model)
        if part in parts and f"{each.model}.{part}" not in config.ingress.stages
    ]
    return RequestClass(name, each.rate, tuple(demands), _slo(each.slo, model))


def _slo(given: SloConfig, model: ModelConfig) -> Slo:
    """The class's own, or else what the configuration says of its model."""
    if given != SloConfig():
        return Slo(given.first_token_s, given.token_s, given.total_s)
    if isinstance(model, ImageTextModel):
        return Slo(model.slo.first_token_s, model.slo.token_s)
    return Slo(total_s=model.slo.image_s if isinstance(model, TextToImageModel) else model.slo.answer_s)


def _visited(each: ClassConfig, model: ModelConfig) -> Iterator[tuple[str, Demand]]:
    reckoned = dict(_reckoned(each, model))
    for part, demand in reckoned.items():
        yield part, _given(each.work[part]) if part in each.work else demand
    for part in each.work:
        if part not in reckoned:
            yield part, _given(each.work[part])


def _given(work: WorkConfig) -> Demand:
    first = Work(work.first_amount, work.first_steps) if work.first_amount is not None else None
    return Demand("", Work(work.amount, work.steps), work.items, first, work.result_bytes)


def _reckoned(each: ClassConfig, model: ModelConfig) -> Iterator[tuple[str, Demand]]:
    if isinstance(model, ImageTextModel):
        if model.vision_encoder is not None and each.images:
            features = each.image_tokens * each.feature_bytes
            encoded = each.images * _new(each, "vision_encoder")
            yield "vision_encoder", Demand("", Work(each.image_patches), encoded, result_bytes=features)
        yield "llm", _llm(each, model)
    elif isinstance(model, TextToImageModel):
        yield from _painting(each, model)
    else:
        work = Work(each.image_patches) if each.images else Work(EMBEDDED_TOKENS)
        yield "embedder", Demand("", work, max(1.0, each.images) * _new(each, "embedder"))


def _llm(each: ClassConfig, model: ImageTextModel) -> Demand:
    """What a prompt's remembered beginning saves, it saves of the prompt."""
    prompt = max(1.0, (each.prompt_tokens + each.images * each.image_tokens) * _new(each, "llm"))
    first = Work(prompt, math.ceil(prompt / prefill_chunk_tokens(model.llm)))
    return Demand("", first + Work(each.answer_tokens, each.answer_tokens), 1.0, first)


def _painting(each: ClassConfig, model: TextToImageModel) -> Iterator[tuple[str, Demand]]:
    images = max(1.0, each.images)
    steps = each.steps or model.default_steps or DEFAULT_STEPS
    rows = 2 if each.guidance else 1
    positions = pixels(each.size) / each.latent_factor**2
    painted = images * _new(each, "denoiser")
    latents, embeddings = positions * LATENT_BYTES, EMBEDDED_TOKENS * each.feature_bytes
    texts = Work(max(1.0, each.prompt_tokens))
    yield "text_encoder", Demand("", texts, _new(each, "text_encoder"), result_bytes=embeddings)
    if each.edits:
        yield "vae_encoder", Demand("", Work(float(pixels(each.size))), _new(each, "vae_encoder"), result_bytes=latents)
    yield "denoiser", Demand("", Work(positions * rows * steps, steps), painted, result_bytes=latents)
    decoded, image = images * _new(each, "vae_decoder"), pixels(each.size) * PIXEL_BYTES
    yield "vae_decoder", Demand("", Work(float(pixels(each.size))), decoded, result_bytes=float(image))


def _new(each: ClassConfig, part: str) -> float:
    return 1.0 - each.remembered.get(part, 0.0)
