"""The scaler as a Ray Serve application of its own: small, one replica, healed by Serve. Knows not what it decides (`scaler.py`). Ray
passes the typed settings only while this module has no postponed annotations."""

import asyncio
import time
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from pipelines.cluster.scaling.scaler import Scaler
from pipelines.cluster.scaling.serve_numbers import ServeNumbers
from pipelines.settings.serve.applications import METRICS
from pipelines.settings.serve.scaled import SCALER, ScalerArgs, ScalerSettings

TINY = {"num_cpus": 0.01}


def scaler(args: ScalerArgs) -> Application:
    """One for all pools."""
    return serve.deployment(ScalerReplica).options(name=SCALER, ray_actor_options=TINY, health_check_period_s=5).bind(args)


class ScalerReplica:
    """Begins with its first settings, which Serve gives it at once."""

    def __init__(self, args: ScalerArgs) -> None:
        self._scaler = Scaler(DeploymentHandle(METRICS, args.metrics), ServeNumbers(), time.monotonic)
        self._running: asyncio.Task[None] | None = None

    async def reconfigure(self, settings: dict[str, Any]) -> None:
        self._scaler.configure(ScalerSettings.model_validate(settings))
        if self._running is None:
            self._running = asyncio.create_task(self._scaler.run())

    async def check_health(self) -> None:
        if self._running is not None and self._running.done():
            self._running.result()
        self._scaler.check_health()

    async def __del__(self) -> None:
        if self._running is not None:
            self._running.cancel()
