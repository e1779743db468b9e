"""How the stages are doing in each of their pools, as Ray Serve and the metrics table tell it. Decides when a pool counts as ready; changes
nothing.

Each of the two is asked by one at a time, for everybody. While Serve's controller is away, what it said last is told, with its age:
replicas serve on meanwhile.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ray.serve.handle import DeploymentHandle

from pipelines.cluster.state import serve_status
from pipelines.cluster.state.last_answer import LastAnswer
from pipelines.jobs import StageCard
from pipelines.settings.derived import Home, capacity
from pipelines.settings.schema.config import INGRESS, AppConfig, PartConfig
from pipelines.settings.schema.deployments import DeploymentConfig
from pipelines.settings.serve.specs import stage_spec
from stages.concurrency.thread_pool import DaemonThreads
from stages.contract.errors import Unavailable
from stages.contract.item import StageMetrics
from stages.contract.message import readable_only

FRESH_S = 0.5  # neither is asked more often
ANSWER_WITHIN_S = 2.0
OLD_S = 5.0  # counters that are older are no longer told as if they were read now
BATCH_BOUND = "batch_bound_items"


@dataclass(frozen=True, slots=True)
class Computing:
    """What a pool computes a stage on and in, and how many items its replicas take into one step, all together (None: nobody said)."""

    device: str
    dtype: str
    capacity: int | None


class ServeDirectory:
    """Asks Serve's controller for replicas, the metrics table for counters. `applications`: deployment -> the one that it is in."""

    def __init__(self, config: AppConfig, table: DeploymentHandle, applications: Mapping[str, str]) -> None:
        self._table, self._applications = table, applications
        self._empty = empty_pools(config)
        self._thread = DaemonThreads("asking Serve's controller", max_threads=1)  # it may hang, and can't be stopped
        self._running = LastAnswer(
            self._ask_controller, whom="Serve's controller", fresh_s=FRESH_S, patience_s=ANSWER_WITHIN_S
        )
        self._metrics = LastAnswer(self._ask_table, whom="the metrics table", fresh_s=FRESH_S, patience_s=ANSWER_WITHIN_S)
        self._computing: dict[tuple[str, str], Computing] = {}  # by stage and pool, as the replicas last said

    async def cards(self) -> Sequence[StageCard]:
        """Raises `Unavailable` where the controller has not said anything yet."""
        with suppress(Unavailable):
            self._computing |= computing(await self.metrics())
        running = await self._running.get()
        cards = [self._card(empty, running.value.get(empty.deployment, 0)) for empty in self._empty]
        return [replace(card, age_s=running.age_s) for card in cards]

    async def metrics(self) -> Sequence[StageMetrics]:
        """Raises `Unavailable`."""
        known = await self._metrics.get()
        if known.age_s > OLD_S:
            raise Unavailable(f"the stages' counters cannot be read now; they were last {known.age_s:.0f} s ago")
        return known.value

    def _card(self, empty: StageCard, replicas: int) -> StageCard:
        known = self._computing.get((empty.name, empty.deployment), Computing(empty.device, empty.dtype, None))
        return replace(
            empty,
            device=known.device,
            dtype=known.dtype,
            replicas=replicas,
            ready=replicas > 0 or empty.ready,
            scaled_to_zero=replicas == 0 and empty.scaled_to_zero,
            capacity=known.capacity if replicas else 0,
        )

    async def _ask_table(self) -> Sequence[StageMetrics]:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return readable_only(await self._table.read.remote())

    async def _ask_controller(self) -> dict[str, int]:
        return await self._thread.run(self._ask)

    def _ask(self) -> dict[str, int]:
        known = serve_status.applications()
        found = {name: known[app].deployments.get(name) for name, app in self._applications.items() if app in known}
        return {name: serving(status.replica_states) for name, status in found.items() if status is not None}


def empty_pools(config: AppConfig) -> list[StageCard]:
    """Every pool of every stage, those of the HTTP surface first, as they are without replicas."""
    homes: dict[str, Home] = {INGRESS: config.ingress, **config.placement()}
    return [
        _empty(stage, part, deployment, home, config)
        for deployment, home in homes.items()
        for stage, part in config.hosted(home).items()
    ]


def _empty(stage: str, part: PartConfig, deployment: str, home: Home, config: AppConfig) -> StageCard:
    spec, scaling = stage_spec(stage, part), home.autoscaling_config if isinstance(home, DeploymentConfig) else None
    may_sleep = scaling is not None and scaling.min_replicas == 0
    usual = "cuda" if capacity(home, config).num_gpus else "cpu"
    return StageCard(
        name=stage,
        kind=spec.kind,
        deployment=deployment,
        device=part.device if part.device != "auto" else usual,
        dtype=part.dtype,
        replicas=0,
        ready=may_sleep,
        loader=spec.loader,
        source=spec.source.public_name(),
        scaled_to_zero=may_sleep,
        accelerator_type=home.ray_actor_options.accelerator_type,
        capacity=0,
    )


def serving(states: Mapping[str, int]) -> int:
    """How many replicas serve, of Serve's count by state. Those that a new controller has yet to hear from serve as before."""
    return sum(int(states.get(state, 0)) for state in ("RUNNING", "RECOVERING", "PENDING_MIGRATION"))


def computing(metrics: Sequence[StageMetrics]) -> Mapping[tuple[str, str], Computing]:
    """By stage and pool, as the replicas that host it say."""
    found: dict[tuple[str, str], Computing] = {}
    for stage in metrics:
        if stage.is_hosted:
            before, bound = found.get((stage.stage, stage.pool)), int(stage.counters.get(BATCH_BOUND, 0))
            room = (before.capacity or 0 if before is not None else 0) + bound
            found[stage.stage, stage.pool] = Computing(stage.device, stage.dtype, room or None)
    return found
