"""A pool's replicas while a simulation runs: they start, serve, are drained and end.

Decides which replica ends first (whoever has least in hand), and nothing about how many there should be.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipelines.planning.scaling.pool_state import Feed, PoolState, StageLoad
from pipelines.planning.simulation.engines.clock import CONTROL, Clock, quantized
from pipelines.planning.simulation.engines.devices import Done
from pipelines.planning.simulation.fleet import Pool
from pipelines.planning.simulation.replica import Replica
from stages.contract.work import NO_WORK, Work


@dataclass(slots=True)
class _Seen:
    """Of a stage, at the scaler's last look."""

    num_arrived: int = 0
    arrived: Work = NO_WORK
    num_left: int = 0


class PoolRun:
    """`make`: a new replica by its name; `changed`: is told when another set of replicas serves."""

    def __init__(
        self,
        clock: Clock,
        who: int,
        spec: Pool,
        make: Callable[[Pool, str], Replica],
        changed: "Callable[[PoolRun], None]",
        window: tuple[float, float],
    ) -> None:
        self.spec = spec
        self.replicas: list[Replica] = []
        self.stopping: list[Replica] = []
        self.target = spec.replicas
        self.done = Done()
        self._clock, self._who, self._make, self._changed, self._window = clock, who, make, changed, window
        self._starting: set[int] = set()
        self._serial = itertools.count()
        self._born: dict[str, float] = {}
        self._gone = {hosted.stage: _Seen() for hosted in spec.stages}  # what replicas counted that have ended
        self._seen = {hosted.stage: _Seen() for hosted in spec.stages}
        self._looked_at = 0.0

    def begin(self) -> None:
        for _ in range(self.spec.replicas):
            self._start(next(self._serial))
        self._changed(self)

    def scale(self, target: int) -> None:
        self.target = target
        while len(self.replicas) + len(self._starting) < target:
            serial = next(self._serial)
            self._starting.add(serial)
            ready = self._clock.now + quantized(self.spec.start_up_s)
            self._clock.at(ready, CONTROL, self._who, self._started, serial)
        while self._starting and len(self.replicas) + len(self._starting) > target:
            self._starting.remove(max(self._starting))
        if len(self.replicas) > target:
            leaving = sorted(self.replicas, key=lambda replica: (replica.place.ongoing, -replica.who))[
                : len(self.replicas) - target
            ]
            self.replicas = [replica for replica in self.replicas if replica not in leaving]
            self.stopping += leaving
            self._changed(self)
            self.reap()

    def _started(self, serial: int) -> None:
        if serial in self._starting:
            self._starting.remove(serial)
            self._start(serial)
            self._changed(self)

    def _start(self, serial: int) -> None:
        replica = self._make(self.spec, f"{self.spec.name}#{serial}")
        self._born[replica.place.replica] = self._clock.now
        self.replicas.append(replica)

    def reap(self) -> None:
        """Drained replicas that have nothing left end."""
        for replica in [replica for replica in self.stopping if not replica.place.ongoing]:
            self.stopping.remove(replica)
            self._end(replica)

    def die(self, number: int) -> None:
        """Another one is started for it."""
        if number < len(self.replicas):
            replica = self.replicas.pop(number)
            self._changed(self)
            replica.die()
            self._end(replica)
            self.scale(self.target)

    def finish(self) -> None:
        """The simulation is over."""
        for replica in (*self.replicas, *self.stopping):
            self._end(replica)

    def _end(self, replica: Replica) -> None:
        since, until = self._window
        born = self._born.pop(replica.place.replica)
        replica.device.done.alive_s = max(0.0, min(self._clock.now, until) - max(born, since))
        self.done.add(replica.device.done)
        for stage, counted in replica.stages.items():
            gone = self._gone[stage]
            gone.num_arrived += counted.num_arrived
            gone.arrived += counted.arrived
            gone.num_left += counted.num_left

    def state(self, after: Mapping[str, tuple[tuple[str, float], ...]], unplaced: Mapping[str, tuple[int, Work]]) -> PoolState:
        """As a scaler sees it; what it counts, since it was asked last. `unplaced`: by stage, what waits for a replica of this pool."""
        spec, passed_s = self.spec, max(1e-9, self._clock.now - self._looked_at)
        self._looked_at = self._clock.now
        everyone = (*self.replicas, *self.stopping)
        loads = []
        for hosted in spec.stages:
            stage, now = hosted.stage, self._counted(hosted.stage)
            before, self._seen[stage] = self._seen[stage], now
            num_waiting, waiting = unplaced.get(stage, (0, NO_WORK))
            told = [replica.load(stage) for replica in everyone]
            loads.append(
                StageLoad(
                    stage=stage,
                    speed=next((load.speed for load in told if load.speed is not None), None),
                    arriving=(now.num_arrived - before.num_arrived) / passed_s,
                    work=(now.arrived - before.arrived) * (1 / passed_s),
                    leaving=(now.num_left - before.num_left) / passed_s,
                    backlog=sum((load.outstanding for load in told), waiting),
                    num_items=num_waiting + sum(load.num_items for load in told),
                    after=tuple(Feed(*feed) for feed in after.get(stage, ())),
                )
            )
        return PoolState(
            pool=spec.name,
            stages=tuple(loads),
            device=spec.device,
            devices=spec.devices,
            running=len(self.replicas),
            starting=len(self._starting),
            stopping=len(self.stopping),
            min_replicas=spec.min_replicas,
            max_replicas=spec.max_replicas,
            start_up_s=spec.start_up_s,
            price_per_hour=spec.price_per_hour,
        )

    def _counted(self, stage: str) -> _Seen:
        gone = self._gone[stage]
        num_arrived, arrived, num_left = gone.num_arrived, gone.arrived, gone.num_left
        for replica in (*self.replicas, *self.stopping):
            counted = replica.stages[stage]
            num_arrived += counted.num_arrived
            arrived += counted.arrived
            num_left += counted.num_left
        return _Seen(num_arrived, arrived, num_left)
