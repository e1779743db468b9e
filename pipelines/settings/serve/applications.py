"""The configuration as Ray Serve applications: one for the HTTP surface, one for each deployment of stages, one for each embedded
Redis.

Pure; knows no Ray. Decides what of the configuration restarts what. Serve keys all deployments of an application on its `args`, so each
deployment is an application of its own, whose `args` hold what its replicas can't change while they run. What can change stands in
Serve's own list of deployments: `user_config` (limits, keys, queue bounds), and Serve's own settings (how many replicas, how much they
take in).

Requests are made for certain weights: tokens, names of results, sizes. So an application of stages is named for what it computes with,
too: another model's is another application, which starts beside the old one, and the HTTP surface goes from the one to the other. Knows
not how an application is built, nor in which order changes are made (`pipelines/settings/serve/rollout.py`).
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, SerializeAsAny, field_validator

from pipelines.settings.derived import Home, batch_items, capacity, longest_request_s, max_queued_requests, pixels_in_flight
from pipelines.settings.placement import homes, needed_elsewhere
from pipelines.settings.schema.config import (
    INGRESS,
    PARTS,
    SURGE_PERCENT,
    AppConfig,
    BatchConfig,
    IngressConfig,
    ModelConfig,
    PartConfig,
    QueueConfig,
)
from pipelines.settings.schema.deployments import ActorOptions, AutoscalingConfig, DeploymentConfig, PartOverrides
from pipelines.settings.schema.orchestration import RoutingConfig
from pipelines.settings.schema.remembering import CacheConfig
from pipelines.settings.schema.strict import Strict
from pipelines.settings.schema.telemetry import TelemetryConfig
from pipelines.settings.serve.replica_spec import CacheSpec, RedisSpec, ReplicaSpec
from pipelines.settings.serve.scaled import SCALER, SCALER_BUILDER, ScalerArgs, is_scaled, scaler_settings
from pipelines.settings.serve.specs import (
    REDIS,
    EmbeddedServer,
    cache_spec,
    computes_in_pages,
    embedded_servers,
    pages_spec,
    stage_spec,
    torch_threads,
)
from stages.images.pixel_budget import MAX_PIXELS

METRICS = "metrics"
SURFACE_BUILDER = "pipelines.app:surface"
STAGES_BUILDER = "pipelines.cluster.stage_deployment:stages"
REDIS_BUILDER = "pipelines.cluster.stage_deployment:redis"
SCALING_POLICY = "pipelines.cluster.scaling.autoscaling:by_engines_load"
RETRY_AFTER_S = 1.0  # of a request that finds Serve's own queue full
OWN = ""  # in place of an application's name: the one that it is part of
COMPUTED_WITH = (
    "source",
    "contents",
    "loader",
    "projector",
    "max_context_tokens",
)  # settings of a stage that requests are made for
SEEN = (*COMPUTED_WITH, "device", "dtype")  # what the HTTP surface reads of a stage's settings


class Address(Strict):
    """Where a deployment is found."""

    deployment: str
    application: str


Addresses = dict[str, tuple[Address, ...]]
"""Stage -> its pools, in the order of the file."""


class ProcessArgs(Strict):
    """What one process takes of a node."""

    options: ActorOptions = ActorOptions()
    num_gpus: float = 0
    fork_server: bool = True


class StagesArgs(Strict):
    """A deployment of stages, without what may change while it runs. `stages`: by MODEL.PART, as they are in this pool, with `batch` in
    full and any `queue`."""

    deployment: str
    stages: dict[str, SerializeAsAny[PartConfig]]
    cache: CacheSpec
    pages: CacheSpec | None = None
    torch_threads: int | None = None
    process: ProcessArgs
    metrics: Address
    news_period_s: float = RoutingConfig().news_period_s
    profiles: str = ""

    @field_validator("stages", mode="before")
    @classmethod
    def each_is_of_its_kind(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        kinds = {name: PARTS.get(name.rpartition(".")[2], PartConfig) for name in given}
        return {name: kinds[name].model_validate(part) for name, part in given.items()}

    def spec(self) -> ReplicaSpec:
        stages = tuple(stage_spec(name, part) for name, part in self.stages.items())
        return ReplicaSpec(self.deployment, stages, self.cache, self.torch_threads, self.pages, self.profiles)


class StagesSettings(Strict):
    """What may change while replicas of stages run. `queues`: by stage. `elsewhere`: where the stages are whose results these need."""

    queues: dict[str, QueueConfig] = {}
    elsewhere: Addresses = {}
    routing: RoutingConfig = RoutingConfig()
    pixels_in_flight: int = MAX_PIXELS
    telemetry: TelemetryConfig = TelemetryConfig()


class SurfaceArgs(Strict):
    """The HTTP surface, without what may change while it runs. `own`: the stages that live with it; `needs`: a digest of what those
    compute with whose results they need: with other weights there, requests are made for other ones."""

    process: ProcessArgs
    own: StagesArgs | None = None
    needs: str = ""


class SurfaceSettings(Strict):
    """What may change while the HTTP surface runs: everything that it serves. `stages`: where each is; `queues`: of its own ones; `kept`:
    where what clients come back for is kept (None: in its memory)."""

    config: AppConfig
    stages: Addresses = {}
    queues: dict[str, QueueConfig] = {}
    kept: RedisSpec | None = None


class RedisArgs(Strict):
    """`name`: of the server's folder (`pipelines/settings/private_redis.py`)."""

    name: str
    max_memory_bytes: int = Field(ge=1)
    deployment: str = REDIS


@dataclass(frozen=True, slots=True)
class ServeApplication:
    """One entry of `applications:` in a Serve config. `deployments`: Serve's overrides, by name. `is_scaled`: numbers of replicas are the
    scaler's to set (`pipelines/settings/serve/scaled.py`)."""

    name: str
    import_path: str
    args: Mapping[str, Any]
    deployments: Mapping[str, Mapping[str, Any]]
    route_prefix: str | None = None
    is_scaled: bool = False

    def document(self, common: Mapping[str, Any]) -> dict[str, Any]:
        """As it stands in a Serve config. `common`: what all of them get (`runtime_env`, `logging_config`)."""
        overrides = [{"name": name, **given} for name, given in self.deployments.items()]
        named = {"name": self.name, "route_prefix": self.route_prefix, "import_path": self.import_path}
        scaled = {"external_scaler_enabled": True} if self.is_scaled else {}
        return {**common, **named, **scaled, "args": dict(self.args)} | ({"deployments": overrides} if overrides else {})


def applications(config: AppConfig, name: str) -> tuple[ServeApplication, ...]:
    """Every application that the configuration means, what others need first."""
    needed = [_redis(name, server) for server in embedded_servers(config, name)]
    hosts = {deployment: stages_name(name, deployment, config) for deployment in config.placement()}
    stages = [stages_application(deployment, config, name, {**hosts, METRICS: name}) for deployment in hosts]
    scaler = [_scaler_application(config, name, hosts)] if any(map(is_scaled, config.placement().values())) else []
    return (*needed, *stages, *scaler, surface_application(config, name, {**hosts, METRICS: name}))


def stages_name(name: str, deployment: str, config: AppConfig) -> str:
    """The name of a deployment's application: another one where its stages are others, or they, or those whose results they need, compute
    with something else. Where the latter are, and how many pools they have, is no part of it."""
    own, needed = config.placement()[deployment].stages, needed_elsewhere(deployment, config)
    computed_with = [_computed_with(stages, config) for stages in (own, needed)]
    return f"{name}-{deployment}-{_digest(computed_with)[:8]}"


def _computed_with(stages: Collection[str], config: AppConfig) -> dict[str, Any]:
    """Of each, what requests are made for."""
    parts = config.parts()
    return {stage: {field: _plain(getattr(parts[stage], field, None)) for field in COMPUTED_WITH} for stage in stages}


def stages_application(deployment: str, config: AppConfig, name: str, hosts: Mapping[str, str]) -> ServeApplication:
    """`hosts`: deployment -> application."""
    placed = config.placement()[deployment]
    number = {} if is_scaled(placed) else {"num_replicas": placed.num_replicas or 1}
    return ServeApplication(
        hosts[deployment],
        STAGES_BUILDER,
        _compact(_stages_args(deployment, placed, config, name, hosts)),
        {deployment: number | _stages_overrides(deployment, config, hosts)},
        is_scaled=is_scaled(placed),
    )


def scaled_by_serve(deployment: str, config: AppConfig) -> dict[str, Any]:
    """Serve's own settings for how many replicas there are, where everything is one application, which it sees all of. With "auto", Serve
    has the policy imported where the application is built, which has its code; else in its controller."""
    placed = config.placement()[deployment]
    if placed.autoscaling_config is None:
        return {"num_replicas": placed.num_replicas or 1}
    scaling = placed.autoscaling_config.model_dump(exclude_none=True, exclude={"weight"})
    target = capacity(placed, config).target_ongoing_requests
    more = {"target_ongoing_requests": target, "policy": {"policy_function": SCALING_POLICY}}
    return {"num_replicas": "auto", "autoscaling_config": scaling | more}


def _scaler_application(config: AppConfig, name: str, hosts: Mapping[str, str]) -> ServeApplication:
    overrides = {"user_config": _compact(scaler_settings(config, hosts))}
    return ServeApplication(f"{name}-{SCALER}", SCALER_BUILDER, _compact(ScalerArgs(metrics=name)), {SCALER: overrides})


def surface_application(config: AppConfig, name: str, hosts: Mapping[str, str]) -> ServeApplication:
    """`hosts`: deployment -> application."""
    own = _stages_args(INGRESS, config.ingress, config, name, hosts) if config.ingress.stages else None
    placed = {stage: at for stage, at in homes(config).items() if at != (INGRESS,)}
    settings = SurfaceSettings(
        config=_seen_by_surface(config),
        stages=_addresses(placed, hosts),
        queues=_queues(config.ingress, config),
        kept=cache_spec(config, name).redis,
    )
    overrides = {
        "num_replicas": config.ingress.num_replicas,
        "max_ongoing_requests": config.ingress.max_ongoing_requests,
        "max_queued_requests": max_queued_requests(config.ingress),
        "backpressure_config": {"status_code": 429, "retry_after_s": RETRY_AFTER_S},
        "graceful_shutdown_timeout_s": longest_request_s(config),
        "max_surge_percent": SURGE_PERCENT,
        "user_config": _compact(settings),
    }
    needed = _computed_with(needed_elsewhere(INGRESS, config), config)
    args = SurfaceArgs(process=_process(config.ingress, config), own=own, needs=_digest(needed) if needed else "")
    return ServeApplication(name, SURFACE_BUILDER, _compact(args), {INGRESS: overrides}, route_prefix="/")


def _seen_by_surface(config: AppConfig) -> AppConfig:
    """The configuration with defaults for what tells the surface nothing: how stages are run, how deployments scale, how much waits in
    them, where results are remembered."""
    homes = {name: _seen_home(home, config) for name, home in config.placement().items()}
    models = {
        name: model.model_copy(update={**_seen_parts(model), "slo": type(model.slo)()})
        for name, model in config.models.items()
    }
    ingress = IngressConfig(
        stages=config.ingress.stages,
        ray_actor_options=ActorOptions(num_gpus=capacity(config.ingress, config).num_gpus),
        **config.ingress.http(),
    )
    return AppConfig.model_construct(
        models=models,
        deployments=homes,
        cache=CacheConfig(),
        limits=config.limits,
        auth=config.auth,
        fetch=config.fetch,
        ingress=ingress,
        routing=config.routing,
        telemetry=config.telemetry,
    )


def _seen_home(home: DeploymentConfig, config: AppConfig) -> DeploymentConfig:
    """Where stages are, on what device, in which dtype, and whether they may be scaled to zero."""
    asleep = home.autoscaling_config is not None and home.autoscaling_config.min_replicas == 0
    overrides = {stage: PartOverrides(device=given.device, dtype=given.dtype) for stage, given in home.overrides.items()}
    return DeploymentConfig(
        stages=home.stages,
        overrides={stage: given for stage, given in overrides.items() if given.settings()},
        autoscaling_config=AutoscalingConfig(min_replicas=0) if asleep else None,
        ray_actor_options=ActorOptions(
            num_gpus=capacity(home, config).num_gpus, accelerator_type=home.ray_actor_options.accelerator_type
        ),
    )


def _seen_parts(model: ModelConfig) -> dict[str, PartConfig]:
    return {
        name: part.model_copy(
            update={
                field: told.get_default(call_default_factory=True)
                for field, told in type(part).model_fields.items()
                if field not in SEEN
            }
        )
        for name, part in model.parts().items()
    }


def version_of(user_config: Mapping[str, Any]) -> str:
    """Tells settings of the HTTP surface from others."""
    return _digest(user_config)[:16]


def _digest(value: object) -> str:
    """Of a value of JSON's types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plain(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def redis_args(server: EmbeddedServer) -> RedisArgs:
    return RedisArgs(name=server.name, max_memory_bytes=server.max_memory_bytes, deployment=server.deployment)


def _redis(name: str, server: EmbeddedServer) -> ServeApplication:
    return ServeApplication(f"{name}-{server.deployment}", REDIS_BUILDER, _compact(redis_args(server)), {})


def _stages_args(deployment: str, home: Home, config: AppConfig, name: str, hosts: Mapping[str, str]) -> StagesArgs:
    return StagesArgs(
        deployment=deployment,
        stages={stage: _without_queue(part) for stage, part in config.hosted(home).items()},
        cache=cache_spec(config, name),
        pages=pages_spec(config, name) if computes_in_pages(home.stages) else None,
        torch_threads=torch_threads(home),
        process=_process(home, config),
        metrics=Address(deployment=METRICS, application=hosts[METRICS]),
        news_period_s=config.routing.news_period_s,
        profiles=config.profiles,
    )


def _addresses(stages: Mapping[str, Sequence[str]], hosts: Mapping[str, str]) -> Addresses:
    """`stages`: with the deployments that host them."""
    return {stage: tuple(Address(deployment=at, application=hosts[at]) for at in pools) for stage, pools in stages.items()}


def _without_queue(part: PartConfig) -> PartConfig:
    """The size of a batch may be derived from the queue's."""
    batch = BatchConfig(max_items=batch_items(part), max_cost=part.batch.max_cost)
    return part.model_copy(update={"batch": batch, "queue": QueueConfig()})


def _process(home: Home, config: AppConfig) -> ProcessArgs:
    return ProcessArgs(
        options=home.ray_actor_options, num_gpus=capacity(home, config).num_gpus, fork_server=config.fork_server
    )


def _stages_overrides(deployment: str, config: AppConfig, hosts: Mapping[str, str]) -> dict[str, Any]:
    placed = config.placement()[deployment]
    room = capacity(placed, config)
    settings = StagesSettings(
        queues=_queues(placed, config),
        elsewhere=_addresses(needed_elsewhere(deployment, config), hosts),
        routing=config.routing,
        pixels_in_flight=pixels_in_flight(config.limits),
        telemetry=config.telemetry,
    )
    return {
        "max_ongoing_requests": room.max_ongoing_requests,
        "max_queued_requests": placed.max_queued_requests,
        "health_check_period_s": placed.health_check_period_s,
        "health_check_timeout_s": placed.health_check_timeout_s,
        "graceful_shutdown_timeout_s": placed.graceful_shutdown_timeout_s or longest_request_s(config),
        "max_surge_percent": placed.max_surge_percent,
        "user_config": _compact(settings),
    }


def _queues(home: Home, config: AppConfig) -> dict[str, QueueConfig]:
    return {stage: part.queue for stage, part in config.hosted(home).items()}


def _compact(settings: Strict) -> dict[str, Any]:
    """What differs from the defaults, in JSON's types: short to read, and no infinities, which JSON lacks."""
    return settings.model_dump(mode="json", exclude_defaults=True)
