"""The HTTP surface as a Ray Serve application, and everything as one.

Decides how the surface comes to serve other settings while it runs; what of the configuration becomes which application is
`pipelines/settings/serve/applications.py`, what deployments of stages are made of `pipelines/cluster/stage_deployment.py`, what happens
to a request `pipelines/`. `triptych serve` and `triptych deploy` have Serve call `surface`; `serve run serve_config.yaml` calls `build`.
Ray passes the typed settings only while this module has no postponed annotations.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Collection, Mapping
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from pipelines.client import LocalStageClient, SplitStageClient, StageClient
from pipelines.cluster.live_app import AsgiApp, Built, LiveApp, Succession
from pipelines.cluster.replica import StageReplica
from pipelines.cluster.running_serve import listening_host, ways_in
from pipelines.cluster.scaling.waiting import TellsWaiting
from pipelines.cluster.stage_deployment import (
    TINY,
    Elsewhere,
    PlacedReplica,
    actor_options,
    client_of,
    handle_of,
    hosted_in,
    limit_queues,
    redis,
)
from pipelines.cluster.state.directory import ServeDirectory
from pipelines.cluster.state.metrics_table import MetricsTable, Refused, SettingsInUse
from pipelines.cluster.state.surface_counts import SurfaceCounts
from pipelines.ingress.app import Kept, create_app
from pipelines.ingress.body.large_blocks import return_large_blocks
from pipelines.ingress.request.settings import settings_of
from pipelines.ingress.tenants.key_files import KeyFiles
from pipelines.routing.waitlist import waitlist_of_this_process
from pipelines.service import Triptych
from pipelines.settings.cautions import cautions
from pipelines.settings.config_file import parse
from pipelines.settings.derived import pixels_in_flight
from pipelines.settings.loopback import refuse_open_door
from pipelines.settings.pinning import pinned
from pipelines.settings.schema.auth import AuthConfig
from pipelines.settings.schema.config import INGRESS, AppConfig, FetchConfig
from pipelines.settings.schema.orchestration import RoutingConfig
from pipelines.settings.schema.telemetry import TelemetryConfig
from pipelines.settings.serve.applications import (
    METRICS,
    OWN,
    Address,
    Addresses,
    StagesArgs,
    SurfaceArgs,
    SurfaceSettings,
    redis_args,
    scaled_by_serve,
    stages_application,
    surface_application,
    version_of,
)
from pipelines.settings.serve.replica_spec import RedisSpec
from pipelines.settings.serve.specs import embedded_servers
from pipelines.settings.ways_in import refuse_other_ways_in
from pipelines.telemetry.telling import ProcessTelling
from pipelines.threads import Threads
from stages.images.pixel_budget import pixels_of_this_process

TELL_AGAIN_S = 10.0  # well within what the table takes for a sign of life
ONE_APPLICATION = "triptych"
log = logging.getLogger("triptych.surface")


def build(args: AppConfig) -> Application:
    """Everything as one application: any change restarts all of it. Raises `ConfigurationError` for settings that cannot work, and where
    Serve listens to strangers and there are no keys, before anything is deployed."""
    config = parse(args)
    refuse_open_door(config, listening_host())
    refuse_other_ways_in(ways_in())
    for caution in cautions(config):
        log.warning(caution)
    config = pinned(config)
    hosts = dict.fromkeys((*config.placement(), METRICS), OWN)
    hosted = {name: stages_application(name, config, ONE_APPLICATION, hosts) for name in config.placement()}
    parts = [
        hosted_in(
            PlacedReplica, StagesArgs.model_validate(part.args), {**part.deployments[name], **scaled_by_serve(name, config)}
        )
        for name, part in hosted.items()
    ]
    parts += [redis(redis_args(server)) for server in embedded_servers(config, ONE_APPLICATION)]
    root = surface_application(config, ONE_APPLICATION, hosts)
    return _surface(SurfaceArgs.model_validate(root.args), root.deployments[INGRESS], parts)


def surface(args: SurfaceArgs) -> Application:
    """The HTTP surface and the metrics table. Raises `ConfigurationError` where Serve would lead clients past its proxies."""
    refuse_other_ways_in(ways_in())
    return _surface(args, {}, [])


def _surface(args: SurfaceArgs, overrides: Mapping[str, Any], beside: list[Application]) -> Application:
    table = (
        serve.deployment(MetricsTable)
        .options(
            name=METRICS,
            ray_actor_options=TINY,
            max_ongoing_requests=1000,
            logging_config=LoggingConfig(enable_access_log=False),  # every replica reports every second
        )
        .bind()
    )
    return (
        serve.deployment(Ingress)
        .options(
            name=INGRESS,
            ray_actor_options=actor_options(args.process),
            health_check_period_s=2,
            **overrides,
        )
        .bind(args, [table, *beside])
    )


@serve.ingress()
class Ingress:
    """The HTTP surface in a replica, with its own stages, if there are any. What it serves comes with `reconfigure`, at the start, too.
    `beside` only keeps deployments in the application."""

    def __init__(self, args: SurfaceArgs, beside: list[DeploymentHandle]) -> None:
        self._app, self._threads = LiveApp(), Threads.new()
        self._succession = Succession[dict[str, Any]](self._app, self._built, self._changed)
        self._given: dict[str, Any] = {}
        self._key_files = KeyFiles(self._threads.kept, self._read_keys_again)
        self._kept: Kept | None = None
        self._kept_in: RedisSpec | None = None
        self._replica = str(serve.get_replica_context().replica_tag)
        self._table = handle_of(Address(deployment=METRICS, application=OWN))
        self._waiting = TellsWaiting(self._table, self._replica)
        self._counts = SurfaceCounts(self._table, self._replica)
        self._elsewhere, self._needed = Elsewhere(), (Addresses(), RoutingConfig())
        self._process = ProcessTelling(self._replica)
        self._own = (
            StageReplica(args.own.spec(), self._table, self._elsewhere, self._process) if args.own is not None else None
        )
        if args.own is None:  # tensors are better kept
            return_large_blocks()
        self._served: tuple[SurfaceSettings, Triptych] | None = None
        self._told: SettingsInUse | None = None
        self._told_at = float("-inf")
        self._telling: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> AsgiApp:
        return self._app

    async def reconfigure(self, settings: dict[str, Any]) -> None:
        """Serves by these settings soon; requests under way end by the old ones. Serve sends no requests while this runs, so where
        others are in use, it doesn't wait. Settings that can't be served by are refused then: `triptych deploy` tells."""
        self._given = settings
        await self._succession.take(settings)

    async def _read_keys_again(self) -> None:
        await self._succession.take(self._given)

    def _built(self, given: dict[str, Any]) -> Built[dict[str, Any]]:
        settings = checked_settings(given)
        self._key_files.note(settings.config.auth.files())
        limits = settings_of(settings.config)
        if self._served is None or _what_is_served(self._served[0]) != _what_is_served(settings):
            self._served = settings, self._service(settings)
        if self._kept is None:
            self._kept = Kept.new(
                limits,
                self._threads,
                live=self._app,
                surfaces=self._counts,
                tracer=self._process.tracer,
                waitlist=waitlist_of_this_process(),
            )
            gc.collect()
            gc.freeze()  # or the collector looks through all of it again and again, and holds up every request meanwhile
        return Built(given, create_app(self._served[1], limits, self._kept), version_of(given))

    def _keep_in(self, redis: RedisSpec | None) -> None:
        """Where what clients come back for is kept: the same for as long as the configuration names it. None: in memory."""
        if self._kept is not None and redis != self._kept_in:
            self._kept.keep_in(redis.open_store() if redis is not None else None)
            self._kept_in = redis

    def _changed(self, built: Built[dict[str, Any]] | None) -> None:
        if built is not None:
            self._limit(SurfaceSettings.model_validate(built.settings))
        if self._kept is not None:
            self._kept.metrics.settings_refused(built is None)
        self._tell_soon()

    def _limit(self, settings: SurfaceSettings) -> None:
        """What requests share, whichever app they came to. Refused settings change nothing of it."""
        self._process.follow(settings.config.telemetry)
        pixels_of_this_process().limit(pixels_in_flight(settings.config.limits))
        if self._kept is not None:
            self._kept.limit(settings.config.limits, is_shared=len({key.tenant for key in settings.config.auth.keys}) > 1)
        self._keep_in(settings.kept)
        if self._own is not None:
            limit_queues(self._own, settings.queues)
        self._needed = settings.stages, settings.config.routing
        self._look_elsewhere(self._app.in_use())

    def _look_elsewhere(self, in_use: Collection[str]) -> None:
        """For what the surface's own stages need, where that is by the newest settings: once requests by earlier ones are done, which may
        need what is there until then."""
        if len(in_use) == 1:
            self._elsewhere.find(*self._needed)

    def _service(self, settings: SurfaceSettings) -> Triptych:
        client: StageClient = client_of(settings.stages, settings.config.routing)
        if self._own is not None:
            client = SplitStageClient(settings.config.ingress.stages, LocalStageClient(self._own.host), client)
        found = {address.deployment: handle_of(address).app_name for pools in settings.stages.values() for address in pools}
        applications = {INGRESS: serve.get_replica_context().app_name, **found}
        return Triptych(settings.config, client, ServeDirectory(settings.config, self._table, applications), self._threads)

    def _tell_soon(self) -> None:
        """Nobody waits for the metrics table."""
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        """The metrics table, which settings are in use: where that has changed, and once in a while."""
        refused, in_use = self._succession.refused, self._app.in_use()
        self._look_elsewhere(in_use)
        told = SettingsInUse(in_use, Refused(version_of(refused[0]), refused[1]) if refused is not None else None)
        if told == self._told and time.monotonic() - self._told_at < TELL_AGAIN_S:
            return
        try:
            async with asyncio.timeout(TELL_AGAIN_S):
                await self._table.report_settings.remote(self._replica, told)
            self._told, self._told_at = told, time.monotonic()
        except Exception as error:  # the table is being replaced; the next check of health tells it
            log.warning("settings in use not reported: %s: %s", type(error).__name__, error)

    async def check_health(self) -> None:
        self._tell_soon()
        self._waiting.begin()
        self._key_files.look_soon()
        if self._kept is not None:
            self._kept.tend()
            self._counts.tell_soon(self._kept.metrics.num_ended, self._kept.metrics.counts)
        if self._own is not None:
            await self._own.check_health()

    async def __del__(self) -> None:
        if self._kept is not None:
            await self._kept.close()
        self._key_files.close()
        self._threads.close()
        self._waiting.close()
        self._counts.close()
        if self._own is not None:
            await self._own.close()
        await self._process.close()


def checked_settings(given: Mapping[str, Any]) -> SurfaceSettings:
    """What the HTTP surface is told to serve. Raises `ConfigurationError` where Serve listens to strangers and there are no keys: however
    it came to be deployed, and where keys are taken away while it runs; and where this replica would listen to clients itself."""
    settings = SurfaceSettings.model_validate(given)
    refuse_open_door(settings.config, listening_host())
    refuse_other_ways_in(ways_in())
    return settings


def _what_is_served(settings: SurfaceSettings) -> SurfaceSettings:
    """Without what only the HTTP surface's own settings are made of."""
    return settings.model_copy(
        update={
            "queues": {},
            "config": settings.config.model_copy(
                update={"auth": AuthConfig(), "fetch": FetchConfig(), "telemetry": TelemetryConfig()}
            ),
        }
    )
