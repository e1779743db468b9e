"""The application: from a configuration to Ray Serve deployments. `serve run serve_config.yaml` calls `build`.

Decides what each deployment is made of and tells Ray of resources, scaling and bounds; what happens in a replica is
`pipelines/cluster/replica.py`, what happens to a request `pipelines/`. Ray passes `build` the typed configuration only while this
module has no postponed annotations.
"""

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from pipelines.client import LocalStageClient, SplitStageClient, StageClient
from pipelines.cluster.directory import ServeDirectory
from pipelines.cluster.fork_server import command
from pipelines.cluster.metrics_table import MetricsTable
from pipelines.cluster.replica import RedisReplica, StageReplica
from pipelines.cluster.serve_client import ServeStageClient
from pipelines.ingress.app import create_app
from pipelines.ingress.request.settings import settings_of
from pipelines.service import Triptych
from pipelines.settings.config import EMBEDDED, INGRESS, ActorOptions, AppConfig, AutoscalingConfig, DeploymentConfig
from pipelines.settings.config_file import parse
from pipelines.settings.derived import capacity
from pipelines.settings.pinning import pinned
from pipelines.settings.replica_spec import ReplicaSpec
from pipelines.settings.specs import embedded_directory, replica_spec

MAX_BACKOFF_S = 0.05  # Serve's own is 0.5 s, which a waiting request feels
TINY = {"num_cpus": 0.01}


def build(args: AppConfig) -> Application:
    """Builds the application. Raises `ConfigurationError` for settings that cannot work, before anything is deployed."""
    return build_named(parse(args), "triptych")


def build_named(config: AppConfig, app_name: str) -> Application:
    """As `build`, for an application of another name (two on one machine don't share an embedded Redis)."""
    config = pinned(config)
    table = (
        serve.deployment(MetricsTable)
        .options(
            name="metrics",
            ray_actor_options=TINY,
            max_ongoing_requests=1000,
            logging_config=LoggingConfig(enable_access_log=False),  # every replica reports every second
        )
        .bind()
    )
    placement = config.placement()
    handles = {name: _stage_deployment(name, deployment, config, app_name, table) for name, deployment in placement.items()}
    redis = config.cache.redis
    extra = [_redis(app_name, redis.max_memory_bytes)] if redis is not None and redis.url == EMBEDDED else []
    return (
        serve.deployment(Ingress)
        .options(
            name=INGRESS,
            num_replicas=config.ingress.num_replicas,
            ray_actor_options=_actor_options(
                config.ingress.ray_actor_options, config, capacity(config.ingress, config).num_gpus
            ),
            max_ongoing_requests=config.ingress.max_ongoing_requests,
            health_check_period_s=2,
        )
        .bind(config, replica_spec(INGRESS, config.ingress, config, app_name), handles, table, extra)
    )


def _stage_deployment(
    name: str, deployment: DeploymentConfig, config: AppConfig, app_name: str, table: Application
) -> Application:
    room = capacity(deployment, config)
    scaling: dict[str, Any] = {"num_replicas": deployment.num_replicas or 1}
    if deployment.autoscaling_config is not None:
        scaling = {"autoscaling_config": _autoscaling(deployment.autoscaling_config, room.target_ongoing_requests)}
    return (
        serve.deployment(_StageReplica)
        .options(
            name=name,
            ray_actor_options=_actor_options(deployment.ray_actor_options, config, room.num_gpus),
            max_ongoing_requests=room.max_ongoing_requests,
            max_queued_requests=deployment.max_queued_requests,
            health_check_period_s=deployment.health_check_period_s,
            health_check_timeout_s=deployment.health_check_timeout_s,
            graceful_shutdown_timeout_s=deployment.graceful_shutdown_timeout_s,
            graceful_shutdown_wait_loop_s=0.2,
            request_router_config=RequestRouterConfig(max_backoff_s=MAX_BACKOFF_S),
            **scaling,
        )
        .bind(replica_spec(name, deployment, config, app_name), table)
    )


def _redis(app_name: str, max_memory_bytes: int) -> Application:
    return (
        serve.deployment(RedisReplica)
        .options(name="redis", ray_actor_options=TINY, health_check_period_s=2)
        .bind(embedded_directory(app_name), max_memory_bytes)
    )


def _actor_options(options: ActorOptions, config: AppConfig, num_gpus: float) -> dict[str, Any]:
    given = {key: value for key, value in options.model_dump().items() if value not in (None, {})}
    forked = {"runtime_env": {"py_executable": command(stages=True)}} if config.fork_server else {}
    return given | {"num_cpus": options.num_cpus, "num_gpus": num_gpus} | forked


def _autoscaling(scaling: AutoscalingConfig, target_ongoing_requests: float) -> dict[str, Any]:
    return scaling.model_dump(exclude_none=True) | {"target_ongoing_requests": target_ongoing_requests}


class _StageReplica(StageReplica):
    """Ended by Serve, which awaits what Python would not."""

    async def __del__(self) -> None:
        await self.close()


@serve.ingress()
class Ingress:
    """The HTTP surface in a replica, with the stages of `own`, if there are any. `extra` only keeps deployments in the application
    that nobody calls."""

    def __init__(
        self,
        config: AppConfig,
        own: ReplicaSpec,
        handles: dict[str, DeploymentHandle],
        table: DeploymentHandle,
        extra: list[DeploymentHandle],
    ) -> None:
        self._config, self._handles, self._table = config, handles, table
        self._own: StageReplica | None = None
        if own.stages:
            self._own = StageReplica(own, table)

    def __serve_build_asgi_app__(self) -> FastAPI:
        stages = {stage: name for name, deployment in self._config.placement().items() for stage in deployment.stages}
        client: StageClient = ServeStageClient(self._handles, stages)
        if self._own is not None:
            client = SplitStageClient(self._config.ingress.stages, LocalStageClient(self._own.host), client)
        directory = ServeDirectory(self._config, self._table, serve.get_replica_context().app_name)
        service = Triptych(self._config, client, directory)
        return create_app(service, settings_of(self._config))

    async def check_health(self) -> None:
        if self._own is not None:
            await self._own.check_health()

    async def __del__(self) -> None:
        if self._own is not None:
            await self._own.close()
