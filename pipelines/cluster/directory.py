"""How the stages are doing, as Ray Serve and the metrics table tell it. Decides when a stage counts as ready; changes nothing."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from pipelines.jobs import StageCard
from pipelines.settings.config import INGRESS, AppConfig
from pipelines.settings.derived import Home, capacity
from pipelines.settings.specs import stage_specs
from stages.contract.errors import Unavailable
from stages.contract.item import StageMetrics

FRESH_S = 0.5  # Serve's controller is asked at most this often
ANSWER_WITHIN_S = 2.0


class ServeDirectory:
    """Asks Serve's controller for replicas, the metrics table for counters. `applications`: deployment -> the one that it is in."""

    def __init__(self, config: AppConfig, table: DeploymentHandle, applications: Mapping[str, str]) -> None:
        self._config, self._table, self._applications = config, table, applications
        self._specs = stage_specs(config)
        self._asked_at, self._running = float("-inf"), dict[str, int]()
        self._computing: dict[str, tuple[str, str]] = {}  # device and dtype of each stage, as its replicas last said

    async def cards(self) -> Sequence[StageCard]:
        await self._refresh()
        ingress = self._config.ingress
        own = [self._card(stage, INGRESS, ingress, may_sleep=False) for stage in ingress.stages]
        apart = []
        for name, placed in self._config.placement().items():
            may_sleep = placed.autoscaling_config is not None and placed.autoscaling_config.min_replicas == 0
            apart += [self._card(stage, name, placed, may_sleep=may_sleep) for stage in placed.stages]
        return own + apart

    async def metrics(self) -> Sequence[StageMetrics]:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await self._table.read.remote()
        except (RayError, RayServeException, TimeoutError) as error:
            why = f"{type(error).__name__}: {error}"
            raise Unavailable("the stages' counters cannot be read now", detail=why) from None

    async def _refresh(self) -> None:
        if time.monotonic() - self._asked_at < FRESH_S:
            return
        self._asked_at = time.monotonic()
        with suppress(RayError, RayServeException):  # the controller is being replaced, and replicas serve on meanwhile
            self._running = await asyncio.to_thread(self._ask)
        with suppress(Unavailable):
            self._computing |= computing(await self.metrics())

    def _ask(self) -> dict[str, int]:
        known = serve.status().applications
        found = {name: known[app].deployments.get(name) for name, app in self._applications.items() if app in known}
        return {name: serving(status.replica_states) for name, status in found.items() if status is not None}

    def _card(self, stage: str, deployment: str, home: Home, *, may_sleep: bool) -> StageCard:
        spec, replicas = self._specs[stage], self._running.get(deployment, 0)
        expected = "cuda" if capacity(home, self._config).num_gpus else "cpu"
        expected = spec.options.device if spec.options.device != "auto" else expected
        device, dtype = self._computing.get(stage, (expected, spec.options.dtype))
        return StageCard(
            name=stage,
            kind=spec.kind,
            deployment=deployment,
            device=device,
            dtype=dtype,
            replicas=replicas,
            ready=replicas > 0 or may_sleep,
            loader=spec.loader,
            source=str(spec.source),
            scaled_to_zero=replicas == 0 and may_sleep,
        )


def serving(states: Mapping[str, int]) -> int:
    """How many replicas serve, of Serve's count by state. Those that a new controller has yet to hear from serve as before."""
    return sum(int(states.get(state, 0)) for state in ("RUNNING", "RECOVERING", "PENDING_MIGRATION"))


def computing(metrics: Sequence[StageMetrics]) -> Mapping[str, tuple[str, str]]:
    """Device and dtype of each stage, as the replicas that host it say."""
    return {stage.stage: (stage.device, stage.dtype) for stage in metrics if stage.is_hosted}
