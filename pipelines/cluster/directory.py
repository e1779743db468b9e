"""How the stages are doing, as Ray Serve and the metrics table tell it. Decides when a stage counts as ready; changes nothing.

Each of the two is asked by one at a time, for everybody. While Serve's controller is away, what it said last is told, with its age:
replicas serve on meanwhile.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from ray import serve
from ray.serve.handle import DeploymentHandle

from pipelines.cluster.last_answer import LastAnswer
from pipelines.jobs import StageCard
from pipelines.settings.config import INGRESS, AppConfig
from pipelines.settings.derived import Home, capacity
from pipelines.settings.specs import stage_specs
from stages.concurrency.thread_pool import DaemonThreads
from stages.contract.errors import Unavailable
from stages.contract.item import StageMetrics

FRESH_S = 0.5  # neither is asked more often
ANSWER_WITHIN_S = 2.0
OLD_S = 5.0  # counters that are older are no longer told as if they were read now


class ServeDirectory:
    """Asks Serve's controller for replicas, the metrics table for counters. `applications`: deployment -> the one that it is in."""

    def __init__(self, config: AppConfig, table: DeploymentHandle, applications: Mapping[str, str]) -> None:
        self._config, self._table, self._applications = config, table, applications
        self._specs = stage_specs(config)
        self._thread = DaemonThreads("asking Serve's controller", max_threads=1)  # it may hang, and can't be stopped
        self._running = LastAnswer(
            self._ask_controller, whom="Serve's controller", fresh_s=FRESH_S, patience_s=ANSWER_WITHIN_S
        )
        self._metrics = LastAnswer(self._ask_table, whom="the metrics table", fresh_s=FRESH_S, patience_s=ANSWER_WITHIN_S)
        self._computing: dict[str, tuple[str, str]] = {}  # device and dtype of each stage, as its replicas last said

    async def cards(self) -> Sequence[StageCard]:
        """Raises `Unavailable` where the controller has not said anything yet."""
        with suppress(Unavailable):
            self._computing |= computing(await self.metrics())
        running = await self._running.get()
        return [replace(card, age_s=running.age_s) for card in self._cards(running.value)]

    async def metrics(self) -> Sequence[StageMetrics]:
        """Raises `Unavailable`."""
        known = await self._metrics.get()
        if known.age_s > OLD_S:
            raise Unavailable(f"the stages' counters cannot be read now; they were last {known.age_s:.0f} s ago")
        return known.value

    def _cards(self, running: Mapping[str, int]) -> Sequence[StageCard]:
        ingress = self._config.ingress
        own = [self._card(stage, INGRESS, ingress, running, may_sleep=False) for stage in ingress.stages]
        apart = []
        for name, placed in self._config.placement().items():
            may_sleep = placed.autoscaling_config is not None and placed.autoscaling_config.min_replicas == 0
            apart += [self._card(stage, name, placed, running, may_sleep=may_sleep) for stage in placed.stages]
        return own + apart

    async def _ask_table(self) -> Sequence[StageMetrics]:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return await self._table.read.remote()

    async def _ask_controller(self) -> dict[str, int]:
        return await self._thread.run(self._ask)

    def _ask(self) -> dict[str, int]:
        known = serve.status().applications
        found = {name: known[app].deployments.get(name) for name, app in self._applications.items() if app in known}
        return {name: serving(status.replica_states) for name, status in found.items() if status is not None}

    def _card(self, stage: str, deployment: str, home: Home, running: Mapping[str, int], *, may_sleep: bool) -> StageCard:
        spec, replicas = self._specs[stage], running.get(deployment, 0)
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
            source=spec.source.public_name(),
            scaled_to_zero=replicas == 0 and may_sleep,
        )


def serving(states: Mapping[str, int]) -> int:
    """How many replicas serve, of Serve's count by state. Those that a new controller has yet to hear from serve as before."""
    return sum(int(states.get(state, 0)) for state in ("RUNNING", "RECOVERING", "PENDING_MIGRATION"))


def computing(metrics: Sequence[StageMetrics]) -> Mapping[str, tuple[str, str]]:
    """Device and dtype of each stage, as the replicas that host it say."""
    return {stage.stage: (stage.device, stage.dtype) for stage in metrics if stage.is_hosted}
