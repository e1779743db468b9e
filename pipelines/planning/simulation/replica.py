"""A replica in virtual time: what becomes of a call that has come to it.

Decides what a replica's host decides (`stages/host/`): what is remembered is not made again, what is being made is waited for, what a
task needs is made first, and who waits for that counts for nothing in the engine. Knows no routing: for what it needs of others it asks
its caller.
"""

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from pipelines.planning.simulation.deciders import Place
from pipelines.planning.simulation.engines.clock import ARRIVES, Clock
from pipelines.planning.simulation.engines.devices import Device
from pipelines.planning.simulation.engines.engine import Ended, Piece, VirtualEngine
from pipelines.planning.simulation.fleet import Stage, Ways
from pipelines.planning.simulation.names import Names
from pipelines.planning.simulation.outcome import Outcome, Told
from pipelines.planning.simulation.workload import Request, Task
from stages.contract.engine import Load
from stages.contract.errors import QueueFull
from stages.contract.news import StageNews
from stages.contract.work import NO_WORK, Work

HALF_LIFE_ITEMS = 8
"""Of how a replica's failures are remembered."""


@dataclass(slots=True)
class Shared:
    """What all replicas have in common, where there is a shared tier: the names in it, and who waits for what is being made."""

    names: Names
    making: dict[tuple[str, int], list[Callable[[], None]]] = field(default_factory=dict)


@dataclass(slots=True)
class Counted:
    """Of one stage in one replica, since it started."""

    num_arrived: int = 0
    arrived: Work = NO_WORK
    num_left: int = 0
    failing: float = 0.0


@dataclass(slots=True)
class _Stage:
    spec: Stage
    engine: VirtualEngine
    names: Names
    counted: Counted = field(default_factory=Counted)


@dataclass(slots=True, eq=False)
class Call:
    """One call that is here. `is_making`: others may wait for its result."""

    task: Task
    request: Request
    told: Told
    is_making: bool = False


class Replica:
    """`who`: its number among all, which orders what happens at the same moment. `ask`: calls a stage that lives elsewhere."""

    def __init__(
        self,
        clock: Clock,
        who: int,
        place: Place,
        device: Device,
        ways: Ways,
        source: random.Random,
        shared: Shared,
        ask: Callable[[Task, Request, Told], None],
        device_name: str,
    ) -> None:
        self.who, self.place, self.device = who, place, device
        self.is_dead = self.is_failing = False
        self._clock, self._ways, self._source, self._shared, self._ask = clock, ways, source, shared, ask
        self._device_name = device_name
        self._making = shared.making if shared.names.most else {}
        self._stages: dict[str, _Stage] = {}
        self._calls: dict[int, Call] = {}
        self._serial = itertools.count()
        self._number = itertools.count(1)

    def host(self, spec: Stage, engine: VirtualEngine) -> None:
        self._stages[spec.name] = _Stage(spec, engine, Names(spec.remembers))

    @property
    def is_idle(self) -> bool:
        return not self._calls

    @property
    def stages(self) -> Mapping[str, Counted]:
        return {name: stage.counted for name, stage in self._stages.items()}

    def load(self, stage: str) -> Load:
        return self._stages[stage].engine.load()

    def news(self, stage: str) -> StageNews:
        own = self._stages[stage]
        load, counted = own.engine.load(), own.counted
        return StageNews(
            stage=stage,
            replica=self.place.replica,
            device=self._device_name,
            dtype="float16",
            speed=load.speed,
            outstanding=load.outstanding,
            num_items=load.num_items,
            later=load.later,
            num_later=load.num_later,
            tenants=load.told_tenants(),
            failing=counted.failing,
            holds=own.names.held,
            number=next(self._number),
            arrived=counted.arrived,
            num_arrived=counted.num_arrived,
            num_left=counted.num_left,
            is_shared=len(self._stages) > 1,
        )

    def all_news(self) -> Sequence[StageNews]:
        """As it goes with every reply."""
        return [self.news(stage) for stage in self._stages]

    def slow_down(self, slowness: float) -> None:
        """From the next step on."""
        self.device.slowness = slowness
        for stage in self._stages.values():
            stage.engine.interrupt()

    def die(self) -> None:
        """Whoever has a call here is told that it is lost."""
        self.is_dead = True
        for stage in self._stages.values():
            stage.engine.die()
        for serial in list(self._calls):
            self._end(serial, Outcome.LOST, math.inf)

    # ---- a call ----

    def receive(self, task: Task, request: Request, told: Told) -> None:
        serial = next(self._serial)
        self._calls[serial] = Call(task, request, told)
        if self.is_dead or self.is_failing:
            self._end(serial, Outcome.LOST, math.inf)
        elif not self._finds(serial, task):
            self._gather(serial, task, request)

    def _finds(self, serial: int, task: Task) -> bool:
        """Whether its result is there, or is being made by somebody: then there is nothing to do but wait for it."""
        if task.name is None:
            return False
        if self._stages[task.stage].names.uses(task.name):
            self._end(serial, Outcome.DONE, self._clock.now)
            return True
        if self._shared.names.uses(task.name):
            self._stages[task.stage].names.add((task.name,))
            ends = self._clock.now + self._ways.fetch.draw(self._source)
            self._clock.at(ends, ARRIVES, self.who, self._end, serial, Outcome.DONE, ends)
            return True
        waiting = self._making.get((task.stage, task.name))
        if waiting is None:
            self._making[task.stage, task.name] = []
            self._calls[serial].is_making = True
            return False
        waiting.append(partial(self._again, serial))
        return True

    def _again(self, serial: int) -> None:
        """What it waited for is made, or nobody makes it any more."""
        call = self._calls.get(serial)
        if call is not None and not self._finds(serial, call.task):
            self._gather(serial, call.task, call.request)

    def _gather(self, serial: int, task: Task, request: Request) -> None:
        """What it needs first, all at once."""
        missing = [need for need in task.needs if need.name is None or not self._holds(task.stage, need.name)]
        if not missing:
            self._prepare(serial)
            return
        left = len(missing)

        def one_is_there(need: Task, outcome: Outcome, first_at: float) -> None:
            nonlocal left
            left -= 1
            if outcome is not Outcome.DONE:
                self._end(serial, outcome, math.inf)
            elif need.name is not None:
                self._stages[task.stage].names.add((need.name,))
            if not left:
                self._prepare(serial)

        for need in missing:
            told = partial(one_is_there, need)
            if need.stage in self._stages:
                self.receive(need, request, told)
            else:
                self._ask(need, request, told)

    def _holds(self, stage: str, name: int) -> bool:
        return self._stages[stage].names.uses(name)

    def _prepare(self, serial: int) -> None:
        call = self._calls.get(serial)
        if call is None:
            return
        seconds = self._stages[call.task.stage].spec.prepare.draw(self._source)
        if seconds > 0:
            self._clock.at(self._clock.now + seconds, ARRIVES, self.who, self._submit, serial)
        else:
            self._submit(serial)

    def _submit(self, serial: int) -> None:
        call = self._calls.get(serial)
        if call is None:
            return
        task, request, stage = call.task, call.request, self._stages[call.task.stage]
        deadline = request.at_s + request.deadline_s
        if deadline <= self._clock.now:
            self._end(serial, Outcome.LATE, math.inf)
            return
        prompt, expected = _what_is_left(task, stage)
        stage.counted.num_arrived += 1
        stage.counted.arrived += expected
        try:
            stage.engine.submit(
                Piece(
                    str(serial),
                    task.amount,
                    task.steps,
                    prompt,
                    expected,
                    partial(self._ran, serial),
                    task.key,
                    request.priority,
                    deadline,
                    request.tenant,
                )
            )
        except QueueFull:
            stage.counted.num_left += 1
            self._end(serial, Outcome.REFUSED, math.inf)

    def _ran(self, serial: int, piece: Piece, ended: Ended) -> None:
        call = self._calls[serial]
        stage = self._stages[call.task.stage]
        stage.counted.num_left += 1
        if ended is Ended.DONE:
            stage.names.add(call.task.pages)
            self._end(serial, Outcome.DONE, piece.first_at)
        elif ended is Ended.LATE:
            self._end(serial, Outcome.LATE, piece.first_at)

    def _end(self, serial: int, outcome: Outcome, first_at: float) -> None:
        call = self._calls.pop(serial, None)
        if call is None:
            return
        stage = self._stages[call.task.stage]
        failed = outcome is Outcome.LOST
        stage.counted.failing += (failed - stage.counted.failing) / HALF_LIFE_ITEMS
        if call.is_making and (name := call.task.name) is not None:
            if outcome is Outcome.DONE:
                stage.names.add((name,))
                self._shared.names.add((name,))
            for go_on in self._making.pop((call.task.stage, name)):
                go_on()
        call.told(outcome, first_at)


def _what_is_left(task: Task, stage: _Stage) -> tuple[int, Work]:
    """Of its prompt, and expected of all of it, with the longest beginning that is held here."""
    expected = task.expected or task.work(stage.spec.chunk)
    for num_held in range(len(task.pages), 0, -1):
        if stage.names.uses(task.pages[num_held - 1]):
            spared = task.paged * num_held // len(task.pages)
            return task.prompt - spared, expected - Work(spared, spared // stage.spec.chunk)
    return task.prompt, expected
