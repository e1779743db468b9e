"""Deployments of stages, and of embedded Redis servers: what `pipelines/settings/serve/applications.py` says, in Ray Serve's terms.

Decides what of a deployment is the same for all; what happens in a replica is `pipelines/cluster/replica.py`. Apart from the HTTP surface
(`pipelines/app.py`), so that a process which hosts stages imports none of it. Ray passes the typed settings only while this module has no
postponed annotations.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from pipelines.cluster.fork_server import command
from pipelines.cluster.replica import RedisReplica, StageReplica
from pipelines.cluster.serve_client import ServeStageClient
from pipelines.routing.admission import Admission
from pipelines.routing.candidate import Ranking
from pipelines.routing.pool_router import PoolRouter
from pipelines.routing.table import table_of_this_process
from pipelines.routing.waitlist import waitlist_of_this_process
from pipelines.settings.schema.config import QueueConfig
from pipelines.settings.schema.orchestration import RoutingConfig
from pipelines.settings.serve.applications import OWN, Address, Addresses, ProcessArgs, RedisArgs, StagesArgs, StagesSettings
from stages.contract.item import Item, Reply
from stages.images.pixel_budget import pixels_of_this_process

MAX_BACKOFF_S = 0.05  # Serve's own is 0.5 s, which a waiting request feels
CONTROLLER_S = 0.5  # what passes through Serve's controller is about so old when it arrives
TINY = {"num_cpus": 0.01}


def stages(args: StagesArgs) -> Application:
    """One deployment of stages."""
    return hosted_in(PlacedReplica, args, {})


def redis(args: RedisArgs) -> Application:
    """An embedded Redis server."""
    return (
        serve.deployment(RedisReplica)
        .options(name=args.deployment, ray_actor_options=TINY, health_check_period_s=5)
        .bind(args.name, args.max_memory_bytes)
    )


def hosted_in(replica: type["PlacedReplica"], args: StagesArgs, overrides: Mapping[str, Any]) -> Application:
    """A deployment of stages, in replicas of this class. `overrides`: Serve's own settings."""
    return (
        serve.deployment(replica)
        .options(
            name=args.deployment,
            ray_actor_options=actor_options(args.process),
            graceful_shutdown_wait_loop_s=0.2,
            request_router_config=router_config(args.news_period_s),
            **overrides,
        )
        .bind(args)
    )


def router_config(news_period_s: float = RoutingConfig().news_period_s) -> RequestRouterConfig:
    """Of a pool: its replica is chosen by whoever calls it. `news_period_s`: how often what replicas do and hold is published to all who
    call them, beside what goes with their replies."""
    return RequestRouterConfig(
        request_router_class=PoolRouter,
        request_router_kwargs={"published_s": CONTROLLER_S + news_period_s / 10},
        request_routing_stats_period_s=news_period_s,
        request_routing_stats_timeout_s=max(5.0, 2 * news_period_s),
        max_backoff_s=MAX_BACKOFF_S,
    )


def actor_options(process: ProcessArgs) -> dict[str, Any]:
    given = {key: value for key, value in process.options.model_dump().items() if value not in (None, {})}
    forked = {"runtime_env": {"py_executable": command(stages=True)}} if process.fork_server else {}
    return given | {"num_cpus": process.options.num_cpus, "num_gpus": process.num_gpus} | forked


def handle_of(address: Address) -> DeploymentHandle:
    """Of a deployment that need not be there yet: calls wait for it."""
    application = serve.get_replica_context().app_name if address.application == OWN else address.application
    return _only_handle(address.deployment, application)


@cache
def _only_handle(deployment: str, application: str) -> DeploymentHandle:
    """The same for all who ask, however often settings change. Each handle that is made brings a router of its own, and in Serve 2.60 a
    second one of a deployment may never learn of its replicas: where they change while it asks for the first time, the process's first
    router hears of it, tells the second, and stops its asking before the deployment's settings have come. All its calls then wait for
    ever."""
    return DeploymentHandle(deployment, application)


def client_of(stages: Addresses, routing: RoutingConfig = RoutingConfig()) -> ServeStageClient:
    """Who looks at how many replicas is one for all callers of this process."""
    handles = {address.deployment: handle_of(address) for pools in stages.values() for address in pools}
    pools = {stage: [address.deployment for address in pools] for stage, pools in stages.items()}
    admission = Admission(**routing.admission.model_dump()) if routing.admission is not None else None
    table = table_of_this_process()
    table.rank_by(Ranking(max_candidates=routing.max_candidates))
    return ServeStageClient(handles, pools, table=table, admission=admission, waitlist=waitlist_of_this_process())


class Elsewhere:
    """The stages of other deployments, wherever they are now: a `StageCaller` that may be told of other pools while it calls."""

    def __init__(self) -> None:
        self._stages: Addresses = {}
        self._routing = RoutingConfig()
        self._client = client_of({})

    def find(self, stages: Addresses, routing: RoutingConfig = RoutingConfig()) -> None:
        """Calls under way end where they were made."""
        if (stages, routing) != (self._stages, self._routing):
            self._stages, self._routing, self._client = stages, routing, client_of(stages, routing)

    async def call(self, stage: str, item: Item[Any]) -> Reply[Any]:
        return await self._client.call(stage, item)

    def pools(self, stage: str) -> Sequence[str]:
        return [address.deployment for address in self._stages.get(stage, ())]


def limit_queues(replica: StageReplica, queues: Mapping[str, QueueConfig]) -> None:
    for stage, queue in queues.items():
        replica.host.limit_queue(stage, queue.limits())


class ServedReplica(StageReplica):
    """Ended by Serve, which awaits what Python would not."""

    async def __del__(self) -> None:
        await self.close()


class PlacedReplica(ServedReplica):
    """A replica that finds the metrics table, and stages that its own ones need, by the addresses that it is given."""

    def __init__(self, args: StagesArgs) -> None:
        self._elsewhere = Elsewhere()
        super().__init__(args.spec(), handle_of(args.metrics), self._elsewhere)

    def reconfigure(self, settings: dict[str, Any]) -> None:
        """By Serve, at the start and whenever `user_config` changes."""
        given = StagesSettings.model_validate(settings)
        self.telling.follow(given.telemetry)
        limit_queues(self, given.queues)
        self._elsewhere.find(given.elsewhere, given.routing)
        pixels_of_this_process().limit(given.pixels_in_flight)
