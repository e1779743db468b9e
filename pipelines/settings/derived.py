"""Settings that fit each other: what the configuration leaves out is derived here, and what cannot work is refused here.

Pure. Takes a configuration that is well-formed (`pipelines/settings/schema/config.py`); knows no Ray and opens no checkpoint (what a
painter's checkpoint decides is `pipelines/rules/paint_rules.py`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.settings.placement import placement_faults
from pipelines.settings.schema.config import (
    INGRESS,
    AppConfig,
    IngressConfig,
    LimitsConfig,
    LlmConfig,
    PartConfig,
    TextToImageModel,
)
from pipelines.settings.schema.deployments import DeploymentConfig

BATCH_ITEMS = 16
PREFILL_CHUNK_TOKENS = 256
MAX_TOKENS = 512  # of an answer whose bound nobody gave: done before its deadline on a slow machine, too
MAX_PIXELS = 1_048_576
IMAGES_IN_FLIGHT = 2  # of the largest allowed: one for each thread that decodes
IMAGES_A_REQUEST = 4  # of the largest allowed; of ordinary ones as many as images_per_request says
BODIES_IN_FLIGHT = 16  # of the largest allowed
FEWEST_ONGOING = 16
FULL_BATCHES = 2  # one runs, one is there when it ends
LINES = 3  # a full queue's worth, and what ten tenants may have beside it: 1 + 1/2 + ... + 1/10 (`stages/engine/scheduling/room.py`)
ANSWERED_WITHIN_S = 10  # of a request's deadline its answer is on its way to the client

Home = DeploymentConfig | IngressConfig


@dataclass(frozen=True, slots=True)
class Capacity:
    """Of one replica. `target_ongoing_requests`: when autoscaling adds another."""

    max_ongoing_requests: int
    target_ongoing_requests: float
    num_gpus: float


def batch_items(part: PartConfig) -> int:
    """How many share a pass: of an LLM its slots, which are the rows of its steps."""
    if part.batch.max_items is not None:
        return part.batch.max_items
    return part.num_slots if isinstance(part, LlmConfig) else min(BATCH_ITEMS, part.queue.max_items)


def prefill_chunk_tokens(llm: LlmConfig) -> int:
    return llm.prefill_chunk_tokens or min(PREFILL_CHUNK_TOKENS, llm.max_context_tokens)


def default_max_tokens(limits: LimitsConfig) -> int:
    return limits.default_max_tokens or min(MAX_TOKENS, limits.max_tokens or MAX_TOKENS)


def pixels_in_flight(limits: LimitsConfig) -> int:
    return limits.pixels_in_flight or IMAGES_IN_FLIGHT * limits.image_pixels


def request_pixels(limits: LimitsConfig) -> int:
    return limits.request_pixels or IMAGES_A_REQUEST * limits.image_pixels


def body_bytes_in_flight(limits: LimitsConfig) -> int:
    return limits.body_bytes_in_flight or BODIES_IN_FLIGHT * limits.body_bytes


def max_queued_requests(ingress: IngressConfig) -> int:
    return ingress.max_queued_requests or ingress.max_ongoing_requests


def max_pixels(model: TextToImageModel) -> int:
    return model.max_pixels or max(MAX_PIXELS, *(pixels(size) for size in model.sizes), 0)


def pixels(size: str) -> int:
    """Of a WIDTHxHEIGHT."""
    width, _, height = size.partition("x")
    return int(width) * int(height)


def capacity(home: Home, config: AppConfig) -> Capacity:
    """Of everything hosted a full batch is let in, and all that its queue, or what waits for other stages' results, may hold of
    several tenants (and what is aimed at): a queue is fair between tenants, and what Serve keeps before a replica is not. One full
    batch of the largest is aimed at."""
    parts = config.hosted(home).values()
    batches = [batch_items(part) for part in parts]
    let_in = [batch_items(part) + LINES * part.queue.max_items for part in parts]
    scaling = home.autoscaling_config if isinstance(home, DeploymentConfig) else None
    given = None if scaling is None else scaling.target_ongoing_requests
    ongoing = home.max_ongoing_requests or max(FEWEST_ONGOING, sum(let_in), math.ceil(given or 0))
    target = given if given is not None else float(min(max(batches, default=1), ongoing))
    gpus = home.ray_actor_options.num_gpus
    if gpus is None:
        gpus = float(max((index + 1 for index in map(_gpu_index, parts) if index is not None), default=0))
    return Capacity(ongoing, target, gpus)


def longest_request_s(config: AppConfig) -> float:
    """How long a leaving replica may finish its requests, unless a deployment says otherwise."""
    return config.limits.max_request_s + ANSWERED_WITHIN_S


def derivations(config: AppConfig) -> Sequence[str]:
    """What was left out and what became of it, a line each."""
    return [f"{path}: {value} ({why})" for path, value, why in _derived(config)]


def faults(config: AppConfig) -> Sequence[str]:
    """What cannot work, a line each: path, value, what is allowed."""
    found = [*_limits_faults(config.limits)]
    for path, part in _said(config):
        found += _part_faults(path, part)
    for name, model in config.models.items():
        if isinstance(model, TextToImageModel):
            found += _size_faults(f"models.{name}", model)
            found += _keeping_faults(f"models.{name}", model, config)
    for path, home in _homes(config).items():
        found += _ongoing_faults(path, home, config)
        found += _gpu_faults(path, home, config)
    return [*found, *placement_faults(config)]


def _derived(config: AppConfig) -> Iterator[tuple[str, object, str]]:
    limits = config.limits
    if limits.default_max_tokens is None:
        yield "limits.default_max_tokens", default_max_tokens(limits), "of a chat that gives no max_tokens"
    if limits.pixels_in_flight is None:
        yield "limits.pixels_in_flight", pixels_in_flight(limits), f"{IMAGES_IN_FLIGHT} x image_pixels"
    if limits.request_pixels is None:
        yield "limits.request_pixels", request_pixels(limits), f"{IMAGES_A_REQUEST} x image_pixels"
    if limits.body_bytes_in_flight is None:
        yield "limits.body_bytes_in_flight", body_bytes_in_flight(limits), f"{BODIES_IN_FLIGHT} x body_bytes"
    if config.ingress.max_queued_requests is None:
        yield "ingress.max_queued_requests", max_queued_requests(config.ingress), "as many as a replica takes"
    redis, kv = config.cache.redis, config.cache.kv
    if kv is not None and kv.redis is None and redis is not None and not redis.is_embedded:
        yield (
            "cache.kv.redis",
            "none",
            "cache.redis is elsewhere: pages stay in each replica's memory, unless they get a server of their own",
        )
    for name, model in config.models.items():
        for part_name, part in model.parts().items():
            yield from _derived_for_part(f"models.{name}.{part_name}", part)
        if isinstance(model, TextToImageModel):
            yield from _derived_for_painter(f"models.{name}", model)
    for path, part in _said(config):
        if path.startswith("deployments."):
            yield from _derived_for_part(path, part)
    for path, home in _homes(config).items():
        yield from _derived_for_home(path, home, capacity(home, config))
        if isinstance(home, DeploymentConfig) and home.graceful_shutdown_timeout_s is None:
            yield f"{path}.graceful_shutdown_timeout_s", f"{longest_request_s(config):g}", "limits.max_request_s, and a little"


def _derived_for_part(path: str, part: PartConfig) -> Iterator[tuple[str, object, str]]:
    llm = isinstance(part, LlmConfig)
    if part.batch.max_items is None:
        yield f"{path}.batch.max_items", batch_items(part), "num_slots" if llm else "default"
    if isinstance(part, LlmConfig) and part.prefill_chunk_tokens is None:
        yield f"{path}.prefill_chunk_tokens", prefill_chunk_tokens(part), "default, within max_context_tokens"


def _derived_for_painter(path: str, model: TextToImageModel) -> Iterator[tuple[str, object, str]]:
    if model.max_pixels is None:
        yield f"{path}.max_pixels", max_pixels(model), "default, or the largest of sizes"
    for field in ("default_steps", "default_guidance_scale"):
        if getattr(model, field) is None:
            yield f"{path}.{field}", "the checkpoint's own", "GET /v1/models tells it"


def _derived_for_home(path: str, home: Home, room: Capacity) -> Iterator[tuple[str, object, str]]:
    if home.max_ongoing_requests is None:
        yield (
            f"{path}.max_ongoing_requests",
            room.max_ongoing_requests,
            "a full batch of every stage, and its queue with several tenants' parts",
        )
    scaling = home.autoscaling_config if isinstance(home, DeploymentConfig) else None
    if scaling is not None and scaling.target_ongoing_requests is None:
        target = f"{room.target_ongoing_requests:g}"
        yield f"{path}.autoscaling_config.target_ongoing_requests", target, "a full batch of the largest stage"
    if home.ray_actor_options.num_gpus is None and room.num_gpus:
        yield f"{path}.ray_actor_options.num_gpus", f"{room.num_gpus:g}", "the devices that its stages name"


def _limits_faults(limits: LimitsConfig) -> Iterator[str]:
    if (room := body_bytes_in_flight(limits)) < limits.body_bytes:
        yield f"limits.body_bytes_in_flight: {room} has no room for one body of limits.body_bytes {limits.body_bytes}; at least that"
    if (room := pixels_in_flight(limits)) < limits.image_pixels:
        yield f"limits.pixels_in_flight: {room} has no room for one image of limits.image_pixels {limits.image_pixels}; at least that"
    if (room := request_pixels(limits)) < limits.image_pixels:
        yield f"limits.request_pixels: {room} has no room for one image of limits.image_pixels {limits.image_pixels}; at least that"
    given, most = limits.default_max_tokens, limits.max_tokens
    if given is not None and most is not None and given > most:
        yield f"limits.default_max_tokens: {given} is over limits.max_tokens {most}; at most {most}"


def _part_faults(path: str, part: PartConfig) -> Iterator[str]:
    items = batch_items(part)
    if not isinstance(part, LlmConfig):
        if items > part.queue.max_items:
            yield f"{path}.batch.max_items: {items} can never be full where queue.max_items is {part.queue.max_items}; at most that"
        return
    if items != part.num_slots:
        never = "rows that never find a slot" if items > part.num_slots else "slots that never run"
        yield (
            f"{path}.batch.max_items: {items} beside num_slots {part.num_slots} makes {abs(items - part.num_slots)} {never}; "
            "leave batch.max_items out, or give both the same"
        )
    if prefill_chunk_tokens(part) > part.max_context_tokens:
        yield (
            f"{path}.prefill_chunk_tokens: {part.prefill_chunk_tokens} is over max_context_tokens {part.max_context_tokens}; "
            "at most that"
        )


def _size_faults(path: str, model: TextToImageModel) -> Iterator[str]:
    for size in model.sizes:
        if pixels(size) > max_pixels(model):
            yield f"{path}.sizes: {size} has {pixels(size)} pixels, over max_pixels {model.max_pixels}; raise it or leave it out"


def _keeping_faults(path: str, model: TextToImageModel, config: AppConfig) -> Iterator[str]:
    for field in ("keep_steps", "remember_images"):
        if getattr(model, field) and config.cache.kv is None:
            yield f"{path}.{field}: nothing that is painted is kept where cache.kv is null; give that, or leave {field} out"


def _ongoing_faults(path: str, home: Home, config: AppConfig) -> Iterator[str]:
    room = capacity(home, config)
    for stage, part in config.hosted(home).items():
        items = batch_items(part)
        if items > room.max_ongoing_requests:
            what = "num_slots" if isinstance(part, LlmConfig) else "batch.max_items"
            yield (
                f"{path}.max_ongoing_requests: {room.max_ongoing_requests} is less than one batch of {stage} ({what} {items}), which "
                f"could never be full; at least {items}, better {FULL_BATCHES * items}, or leave it out"
            )
    if room.target_ongoing_requests > room.max_ongoing_requests:
        yield (
            f"{path}.autoscaling_config.target_ongoing_requests: {room.target_ongoing_requests:g} is never reached, since a "
            f"replica holds at most max_ongoing_requests {room.max_ongoing_requests}; at most that"
        )


def _gpu_faults(path: str, home: Home, config: AppConfig) -> Iterator[str]:
    parts, gpus = config.hosted(home), capacity(home, config).num_gpus
    where, num_visible = f"{path}.ray_actor_options.num_gpus: {gpus:g}", max(1, int(gpus)) if gpus else 0
    for stage, part in parts.items():
        index = _gpu_index(part)
        if index is not None and index >= num_visible:
            yield f"{where} leaves {stage} without its device {part.device}; at least {index + 1}, or leave num_gpus out"
    used = {0 if part.device == "auto" else _gpu_index(part) for part in parts.values()} - {None}
    if gpus and not used:
        yield f"{where} pays for what no stage uses: {', '.join(parts) or 'nothing'} computes on the cpu; 0, or leave it out"
    elif gpus > max(1, len(used)):
        yield (
            f"{where}, but {', '.join(parts)} compute on {len(used)}: a stage computes on one device; at most {len(used)}, or host "
            "several stages whose device settings name cuda:0, cuda:1 and so on"
        )


def _gpu_index(part: PartConfig) -> int | None:
    """Which of its replica's GPUs a part names; None: none."""
    kind, _, index = part.device.partition(":")
    return int(index or 0) if kind == "cuda" else None


def _said(config: AppConfig) -> Iterator[tuple[str, PartConfig]]:
    """Every stage's settings where they are said: under `models`, and once more for each pool in which they differ."""
    for stage, part in config.parts().items():
        yield f"models.{stage}", part
    for name, home in config.placement().items():
        parts = config.hosted(home)
        yield from ((f"deployments.{name}.overrides.{stage}", parts[stage]) for stage in home.overrides)


def _homes(config: AppConfig) -> dict[str, Home]:
    return {f"deployments.{name}": home for name, home in config.placement().items()} | {INGRESS: config.ingress}
