"""Holds the budget: sees all pools of all applications, and sets how many replicas each has.

Ray Serve's own scaling sees one application at a time, so with ours it is off (`external_scaler_enabled`). Decides only when it looks and
what it leaves alone, and that it asks Serve seldom while nothing happens (its whole state is some milliseconds of the controller's time);
how many there are to be is `pipelines/planning/scaling/`. While it is away, the numbers that it set last stand:
they are Serve's, in its controller's checkpoint; then it goes on from what is there.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from pipelines.planning.scaling.observation import Observation, Present, Watched
from pipelines.planning.scaling.pool_state import Budget, PoolState, Scaling, StageLoad
from pipelines.planning.scaling.targets import Memory, targets
from pipelines.routing.table import pool_key
from pipelines.settings.serve.scaled import ScaledPool, ScalerSettings
from stages.contract.message import readable_values

log = logging.getLogger("triptych.scaler")

ANSWER_WITHIN_PERIODS = 3
SILENT_AFTER_PERIODS = 30
"""Without one answer for so long it doesn't go on by itself: what it asks on may be stuck, and only a new process is rid of that."""
ASKED_AGAIN_AFTER_PERIODS = 10
"""Where all is as it was decided and no stage has told anything new, Serve's numbers are taken to be as they were, for so long."""

Everywhere = Mapping[tuple[str, str], Present]


class Numbers(Protocol):
    """Of replicas, in the cluster (`pipelines/cluster/scaling/serve_numbers.py`)."""

    async def present(self) -> Everywhere:
        """By application and deployment."""
        ...

    async def set(self, application: str, deployment: str, count: int) -> None: ...


class Scaler:
    """`table`: the metrics table's handle. `now`: seconds."""

    def __init__(self, table: Any, numbers: Numbers, now: Callable[[], float]) -> None:
        self._table, self._numbers, self._now = table, numbers, now
        self._settings = ScalerSettings()
        self._observation, self._memory = Observation(), Memory()
        self._answered_at: float | None = None
        self._found: Everywhere = {}
        self._found_at = float("-inf")
        self._settled: object = None

    @property
    def period_s(self) -> float:
        return self._settings.scaling.period_s

    def configure(self, settings: ScalerSettings) -> None:
        self._settings, self._settled = settings, None

    async def run(self) -> None:
        """Decides every period, for ever. What fails is told, and tried again."""
        while True:
            try:
                await self.decide()
            except Exception as error:  # the table or Serve's controller is being replaced
                log.warning("numbers of replicas stay as they are: %s: %s", type(error).__name__, error)
            await asyncio.sleep(self.period_s)

    def check_health(self) -> None:
        """Raises `RuntimeError` where nobody that it asks has answered for many periods."""
        if self._answered_at is None:
            self._answered_at = self._now()
        silent_s = self._now() - self._answered_at
        if silent_s > SILENT_AFTER_PERIODS * self.period_s:
            raise RuntimeError(
                f"no numbers of replicas were decided for {silent_s:.0f} s: the metrics table or Serve is silent"
            )

    async def decide(self) -> Mapping[str, int]:
        """Once. Returns the numbers, by pool. Raises what asking does, and `TimeoutError`."""
        async with asyncio.timeout(ANSWER_WITHIN_PERIODS * self.period_s):
            told, waiting = await self._table.told.remote()
            everywhere = await self._present((told, waiting))
        self._answered_at = self._now()
        pools = {_key(pool): pool for pool in self._settings.pools}
        present = {name: _of(pool, everywhere) for name, pool in pools.items() if _address(pool) in everywhere}
        states = self._observation.states(
            [_watched(pool, self._settings) for pool in self._settings.pools],
            readable_values(told),
            [readable_values(lines) for lines in waiting],
            present,
            self._now(),
            self.period_s,
        )
        wanted, self._memory = targets(states, _budget(self._settings), _scaling(self._settings), self._memory, self._now())
        for name, count in wanted.items():
            if not pools[name].is_fixed and count != present[name].running + present[name].starting:
                self._settled = None
                await self._set(pools[name], present[name], count)
        return wanted

    async def _present(self, heard: object) -> Everywhere:
        """Of Serve, where anything may have changed."""
        now = self._now()
        if (
            self._settled is None
            or self._settled != heard
            or now - self._found_at >= ASKED_AGAIN_AFTER_PERIODS * self.period_s
        ):
            self._found, self._found_at = await self._numbers.present(), now
            is_quiet = not any(one.starting or one.stopping for one in self._found.values())
            self._settled = heard if is_quiet and self._found else None
        return self._found

    async def _set(self, pool: ScaledPool, present: Present, count: int) -> None:
        """Where it can't be, the others are set all the same, and this one is tried again."""
        log.info("%s: %d replicas, of %d", pool.deployment, count, present.running + present.starting)
        try:
            await self._numbers.set(pool.application, pool.deployment, count)
        except Exception as error:
            log.warning("%s keeps its number of replicas: %s: %s", pool.deployment, type(error).__name__, error)
        self._answered_at = self._now()


def _key(pool: ScaledPool) -> str:
    return pool_key(pool.application, pool.deployment)


def _address(pool: ScaledPool) -> tuple[str, str]:
    return pool.application, pool.deployment


def _of(pool: ScaledPool, everywhere: Mapping[tuple[str, str], Present]) -> Present:
    """Replicas of an application that this one takes the place of are about to go, and have their devices until then."""
    own = everywhere[_address(pool)]
    earlier = [each for address, each in everywhere.items() if address[1] == pool.deployment and address != _address(pool)]
    return replace(own, stopping=own.stopping + sum(each.running + each.starting + each.stopping for each in earlier))


def _watched(pool: ScaledPool, settings: ScalerSettings) -> Watched:
    price = settings.scaling.prices.get(pool.device)
    state = PoolState(
        pool=_key(pool),
        stages=tuple(StageLoad(stage) for stage in pool.stages),
        device=pool.device,
        devices=pool.devices,
        min_replicas=pool.min_replicas,
        max_replicas=pool.max_replicas,
        price_per_hour=price * pool.devices if price is not None else None,
        items_per_replica=pool.items_per_replica,
        weight=pool.weight,
        up_after_s=pool.up_after_s,
        down_after_s=pool.down_after_s,
        to_zero_after_s=pool.to_zero_after_s,
    )
    return Watched(state, pool.after)


def _budget(settings: ScalerSettings) -> Budget:
    given = settings.scaling.budget
    left = {device: max(0.0, count - settings.taken.get(device, 0.0)) for device, count in (given.devices or {}).items()}
    return Budget(left, given.price_per_hour)


def _scaling(settings: ScalerSettings) -> Scaling:
    given = settings.scaling
    most = (1 + given.target_utilisation) / 2
    return Scaling(given.target_utilisation, most, drain_s=given.drain_s, period_s=given.period_s)
