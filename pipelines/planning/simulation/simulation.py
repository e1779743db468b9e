"""A fleet in virtual time, with the deciders that the live system has: its schedulers, and whatever routes, refuses and scales.

Decides what happens in which order, and counts; every decision of the fleet's is somebody else's. Pure: the same given, the same result.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from pipelines.planning.simulation.caller import Caller
from pipelines.planning.simulation.deciders import Place, Router, Scaler
from pipelines.planning.simulation.engines.clock import ANSWERS, CONTROL, Clock, quantized
from pipelines.planning.simulation.engines.devices import Device
from pipelines.planning.simulation.engines.engine import VirtualEngine, VirtualIterativeEngine, VirtualOneShotEngine
from pipelines.planning.simulation.fleet import Fleet, Hosted, Incident, Pool, Trouble
from pipelines.planning.simulation.names import Names
from pipelines.planning.simulation.outcome import Outcome, Told
from pipelines.planning.simulation.pool_run import PoolRun
from pipelines.planning.simulation.replica import Replica, Shared
from pipelines.planning.simulation.result import Change, Requests, Result
from pipelines.planning.simulation.workload import Request, Task
from stages.contract.item import DEFAULT_TENANT
from stages.contract.work import NO_WORK, Work


def simulate(
    fleet: Fleet,
    requests: Iterable[Request],
    router: Callable[[random.Random], Router],
    *,
    scaler: Scaler | None = None,
    window: tuple[float, float] = (0.0, math.inf),
    seed: int = 0,
    folds: bool = True,
) -> Result:
    """Until the last request has ended. `requests`: in the order that they come. `router`: makes one for every calling process.
    `window`: of the requests that the figures are of, by when they came, and of what devices are counted to do."""
    return _Simulation(fleet, requests, router, scaler, window, seed, folds).run()


class _Simulation:
    def __init__(
        self,
        fleet: Fleet,
        requests: Iterable[Request],
        router: Callable[[random.Random], Router],
        scaler: Scaler | None,
        window: tuple[float, float],
        seed: int,
        folds: bool,
    ) -> None:
        self._fleet, self._requests, self._router, self._scaler = fleet, iter(requests), router, scaler
        self._window, self._seed, self._folds = window, seed, folds
        self._clock = Clock()
        self._stages = {stage.name: stage for stage in fleet.stages}
        self._shared = Shared(Names(fleet.shared_names))
        self._replicas: dict[str, Replica] = {}  # also those that have ended
        self._num_replicas = 0
        self._changes: list[Change] = []
        self._pools = {
            pool.name: PoolRun(self._clock, number, pool, self._made, self._changed, window)
            for number, pool in enumerate(fleet.pools)
        }
        self._doors = [self._caller(number, f"caller {number}") for number in range(fleet.num_callers)]
        self._inner: dict[str, Caller] = {}  # of replicas that have called others
        self._asked: dict[str, set[str]] = {}  # the stages that these have called
        self._found = Requests(pools=list(self._pools))
        self._num_open = 0
        self._is_over = False
        self._source = random.Random(f"{seed} requests")

    def run(self) -> Result:
        for pool in self._pools.values():
            pool.begin()
        self._come(self._requests)
        if self._fleet.news_period_s:
            self._clock.at(0.0, CONTROL, 0, self._publish)
        if self._scaler is not None:
            self._clock.at(quantized(self._scaler.period_s), CONTROL, 1, self._scale, self._scaler)
        for incident in self._fleet.incidents:
            self._clock.at(quantized(incident.at_s), CONTROL, 2, self._happens, incident)
        self._clock.run()
        for pool in self._pools.values():
            pool.finish()
        return Result(
            requests=self._found,
            window=self._window,
            devices={name: pool.done for name, pool in self._pools.items()},
            device_of={pool.name: pool.device for pool in self._fleet.pools},
            changes=self._changes,
            ended_s=self._clock.now,
        )

    # ---- requests ----

    def _come(self, requests: Iterator[Request]) -> None:
        """The next one, in its time."""
        request = next(requests, None)
        if request is None:
            self._is_over = True
            self._stop_if_over()
            return
        if request.tenant != DEFAULT_TENANT and not self._fleet.has_tenants:
            raise ValueError(f"a request of tenant {request.tenant}, and the fleet is said to have no tenants")
        came = quantized(request.at_s)
        if came < self._clock.now:
            raise ValueError(f"requests come in the order of their times, and one at {request.at_s} s came late")
        self._clock.at(came, ANSWERS, -1, self._comes, request, requests)

    def _comes(self, request: Request, requests: Iterator[Request]) -> None:
        self._num_open += 1
        self._come(requests)
        number = int(self._source.random() * len(self._doors))
        begins = self._clock.now + self._fleet.ways.door.draw(self._source)
        self._clock.at(begins, ANSWERS, number, self._begin, request, self._doors[number])

    def _begin(self, request: Request, door: Caller) -> None:
        left_s = request.at_s + request.deadline_s - self._clock.now
        visits = [(task.stage, door.wanted(task, request.priority, left_s, request.tenant)) for task in _visits(request)]
        if door.router.refusal(visits, left_s, request.priority, self._clock.now) is not None:
            self._end(request, "", Outcome.REFUSED, math.inf)
        else:
            self._call(request, door, 0, "")

    def _call(self, request: Request, door: Caller, number: int, pool: str) -> None:
        door.call(request.calls[number], request, partial(self._called, request, door, number, pool))

    def _called(
        self, request: Request, door: Caller, number: int, first_pool: str, outcome: Outcome, first_at: float, pool: str
    ) -> None:
        """`first_pool`: where the first call went, once that has ended."""
        first_pool = first_pool or pool
        if outcome is Outcome.DONE and number + 1 < len(request.calls):
            self._call(request, door, number + 1, first_pool)
        else:
            self._end(request, first_pool, outcome, first_at)

    def _end(self, request: Request, pool: str, outcome: Outcome, first_at: float) -> None:
        now, found = self._clock.now, self._found
        if outcome is Outcome.DONE and now > request.at_s + request.deadline_s:
            outcome = Outcome.LATE
        self._num_open -= 1
        if request.kind not in found.kinds:
            found.kinds.append(request.kind)
        is_in_time = now - request.at_s <= request.within_s and first_at - request.at_s <= request.first_within_s
        found.at.append(request.at_s)
        found.first.append(first_at)
        found.end.append(now)
        found.kind.append(found.kinds.index(request.kind))
        found.pool.append(found.pools.index(pool) if pool else -1)
        found.outcome.append(outcome)
        found.in_time.append(outcome is Outcome.DONE and is_in_time)
        self._stop_if_over()

    def _stop_if_over(self) -> None:
        if self._is_over and not self._num_open:
            self._clock.stop()

    # ---- replicas ----

    def _caller(self, who: int, name: str) -> Caller:
        source = random.Random(f"{self._seed} {name}")
        router = self._router(source)
        for pool in self._pools.values():
            _tell(router, pool, self._clock.now)
        return Caller(self._clock, who, router, self._stages, self._replicas, self._fleet.ways, source)

    def _made(self, pool: Pool, name: str) -> Replica:
        self._num_replicas += 1
        who, source = self._num_replicas, random.Random(f"{self._seed} {name}")
        place = Place(pool.name, name, pool.max_ongoing)
        device, ask = Device(self._fleet.noise, source, self._window), partial(self._ask, name, who)
        replica = Replica(self._clock, who, place, device, self._fleet.ways, source, self._shared, ask, pool.device)
        for hosted in pool.stages:
            replica.host(self._stages[hosted.stage], self._engine(who, hosted, device, len(pool.stages) == 1))
        self._replicas[name] = replica
        return replica

    def _engine(self, who: int, hosted: Hosted, device: Device, is_alone: bool) -> VirtualEngine:
        spec, profile = self._stages[hosted.stage], hosted.measured
        if not spec.is_iterative:
            return VirtualOneShotEngine(
                self._clock, who, hosted.stage, hosted.batch, spec.queue, device, hosted.speed, profile
            )
        return VirtualIterativeEngine(
            self._clock,
            who,
            hosted.stage,
            hosted.batch,
            spec.queue,
            device,
            hosted.speed,
            profile,
            chunk=spec.chunk,
            is_shared=self._fleet.has_tenants,
            folds=self._folds and is_alone,
        )

    def _ask(self, name: str, who: int, task: Task, request: Request, told: Told) -> None:
        """A replica needs a result of a stage that lives elsewhere."""
        if self._fleet.num_inner_callers:
            name = f"for replicas {who % self._fleet.num_inner_callers}"
        caller = self._inner.get(name)
        if caller is None:
            caller = self._inner[name] = self._caller(len(self._doors) + who, name)
        self._asked.setdefault(name, set()).add(task.stage)
        caller.call(task, request, lambda outcome, first_at, pool: told(outcome, first_at))

    def _changed(self, pool: PoolRun) -> None:
        self._changes.append(Change(self._clock.now, pool.spec.name, len(pool.replicas), pool.target))
        for caller in self._callers():
            _tell(caller.router, pool, self._clock.now)

    def _callers(self) -> Iterable[Caller]:
        return (*self._doors, *self._inner.values())

    # ---- what happens of itself ----

    def _publish(self) -> None:
        """Every replica's news, to whoever may call it."""
        now = self._clock.now
        for pool in self._pools.values():
            for replica in pool.replicas:
                for hosted in pool.spec.stages:
                    news = replica.news(hosted.stage)
                    for router in self._those_that_call(hosted.stage):
                        router.heard(pool.spec.name, news, now)
        self._clock.at(self._clock.now + quantized(self._fleet.news_period_s), CONTROL, 0, self._publish)

    def _those_that_call(self, stage: str) -> Iterable[Router]:
        yield from (door.router for door in self._doors)
        yield from (caller.router for name, caller in self._inner.items() if stage in self._asked[name])

    def _scale(self, scaler: Scaler) -> None:
        unplaced = self._unplaced()
        for pool in self._pools.values():
            pool.reap()
        states = [pool.state(self._fleet.after, unplaced.get(name, {})) for name, pool in self._pools.items()]
        targets = scaler.targets(states, self._ongoing(unplaced), self._clock.now)
        for name, target in targets.items():
            pool = self._pools[name]
            if target != pool.target:
                self._changes.append(Change(self._clock.now, name, len(pool.replicas), target))
            pool.scale(target)
        self._clock.at(self._clock.now + quantized(scaler.period_s), CONTROL, 1, self._scale, scaler)

    def _happens(self, incident: Incident) -> None:
        pool = self._pools[incident.pool]
        if incident.trouble is Trouble.DIES:
            pool.die(incident.number)
        elif incident.number < len(pool.replicas):
            replica = pool.replicas[incident.number]
            _trouble(replica, incident, True)
            if math.isfinite(incident.for_s):
                over = self._clock.now + quantized(incident.for_s)
                self._clock.at(over, CONTROL, 2, _trouble, replica, incident, False)

    def _unplaced(self) -> Mapping[str, Mapping[str, tuple[int, Work]]]:
        """What waits at callers, for the first pool of its stage."""
        found: dict[str, dict[str, tuple[int, Work]]] = {}
        for stage in self._stages:
            pool = next((pool.name for pool in self._fleet.pools if any(one.stage == stage for one in pool.stages)), None)
            waiting = [caller.waiting(stage) for caller in self._callers()]
            num, work = sum(num for num, _ in waiting), sum((work for _, work in waiting), NO_WORK)
            if pool is not None and num:
                found.setdefault(pool, {})[stage] = num, work
        return found

    def _ongoing(self, unplaced: Mapping[str, Mapping[str, tuple[int, Work]]]) -> Mapping[str, float]:
        return {
            name: sum(replica.place.ongoing for replica in (*pool.replicas, *pool.stopping))
            + sum(num for num, _ in unplaced.get(name, {}).values())
            for name, pool in self._pools.items()
        }


def _tell(router: Router, pool: PoolRun, now: float) -> None:
    router.there_are(pool.spec.name, [hosted.stage for hosted in pool.spec.stages], [one.place for one in pool.replicas], now)


def _trouble(replica: Replica, incident: Incident, begins: bool) -> None:
    if incident.trouble is Trouble.SLOW:
        replica.slow_down(incident.factor if begins else 1.0)
    else:
        replica.is_failing = begins


def _visits(request: Request) -> Iterator[Task]:
    """Every stage that it may visit, in turn."""
    for task in request.calls:
        yield from task.needs
        yield task
