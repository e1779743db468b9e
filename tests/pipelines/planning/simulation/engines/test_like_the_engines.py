"""An engine in virtual time ends every item when the real one does: that runs the same items on a stage whose steps move the clock."""

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import Phase, given, settings

from pipelines.planning.simulation.engines.clock import quantized
from stages.contract.item import Item
from stages.contract.limits import BatchLimits
from stages.contract.recipe import NO_INPUTS, Inputs, Recipe
from stages.contract.stage import Share, Stepped
from stages.engine.base import BaseEngine
from stages.engine.iterative import IterativeEngine
from stages.engine.one_shot import OneShotEngine
from stages.engine.work import Clock
from stages.llm.prefill import share_budget
from tests.pipelines.planning.simulation.loads import CHUNK, LINE, STEP, Given, ends, loads
from tests.stages.fakes import PATIENCE_S, Inbox, Total


class Ending(Inbox):
    """Notes when it ended."""

    def __init__(self, world: "World") -> None:
        super().__init__()
        self._world = world
        self.at = 0.0

    def _end(self) -> None:
        self.at = self._world.now
        super()._end()


class World:
    """Items come while a step takes its time, or else once nothing is left to do."""

    def __init__(self, load: Sequence[Given]) -> None:
        self.now = 0.0
        self.clock = Clock(monotonic=lambda: self.now, wall=lambda: self.now)
        self.inboxes: dict[int, Ending] = {}
        self._coming = iter(load)
        self._next = next(self._coming, None)
        self.engine: BaseEngine[Any, Any]

    def pass_time(self, seconds: float) -> None:
        ends = self.now + seconds
        while self._next is not None and self._next.at <= ends:
            self._comes(self._next)
        self.now = ends

    def run(self) -> dict[int, tuple[str, float]]:
        while self._next is not None:
            self._comes(self._next, wait=False)
            while unended := [inbox for inbox in list(self.inboxes.values()) if not inbox.num_endings]:
                unended[0].wait()
        self.engine.check_integrity()
        self.engine.close(PATIENCE_S)
        return {number: ("late" if inbox.error is not None else "done", inbox.at) for number, inbox in self.inboxes.items()}

    def _comes(self, given: Given, *, wait: bool = True) -> None:
        self.now = given.at
        self._next = next(self._coming, None)
        inbox = self.inboxes[given.number] = Ending(self)
        item = Item("id", Sent(given), priority=given.priority, deadline=given.deadline, tenant=given.tenant)
        self.engine.submit(item, NO_INPUTS, inbox)
        if wait:
            self._until_prepared()

    def _until_prepared(self) -> None:
        pause = threading.Event()
        while self.engine.metrics()["preparing"]:
            pause.wait(0.0002)


@dataclass(frozen=True)
class Sent:
    makes = Total
    given: Given

    def needs(self) -> Sequence[Recipe[Any]]:
        return ()


@dataclass(eq=False)
class Row:
    given: Given
    prompt: int
    steps: int


class Paced:
    """What both stages have in common: nothing is computed, but time passes."""

    device = "cpu"

    def __init__(self, world: World) -> None:
        self._world = world

    def check(self, payload: Sent) -> None: ...

    def weigh(self, payload: Sent) -> float:
        return self.cost(Row(payload.given, payload.given.prompt, 1))

    def cost(self, row: Row) -> float:
        return float(min(row.prompt, CHUNK)) if row.prompt else row.given.amount

    def batch_key(self, row: Row) -> Hashable:
        return row.given.key

    def prepare(self, payload: Sent, inputs: Inputs) -> Row:
        return Row(payload.given, payload.given.prompt, payload.given.steps)


class PacedOneShot(Paced):
    result_type = Total

    def run(self, batch: Sequence[Row]) -> Sequence[Total]:
        self._world.pass_time(quantized(STEP.seconds(sum(row.given.amount for row in batch))))
        return [Total(np.asarray(1)) for _ in batch]


class PacedSteps(Paced):
    def needs(self, payload: Sent, inputs: Inputs = NO_INPUTS) -> Sequence[Recipe[Any]]:
        return ()

    def share(self, row: Row) -> Share:
        return Share(self.batch_key(row), self.cost(row))

    def can_start(self, payload: Sent) -> bool:
        return True

    def start(self, payload: Sent, row: Row) -> Row:
        return row

    def suspend(self, row: Row) -> None: ...

    def resume(self, payload: Sent, row: Row, suspended: None) -> Row:
        return row

    def step(self, rows: Sequence[Row]) -> Sequence[Stepped]:
        reading = iter(share_budget([row.prompt for row in rows if row.prompt], CHUNK))
        amounts = [next(reading) if row.prompt else row.given.amount for row in rows]
        self._world.pass_time(quantized(STEP.seconds(float(sum(amounts)))))
        return [self._stepped(row, amount) for row, amount in zip(rows, amounts, strict=True)]

    def _stepped(self, row: Row, amount: float) -> Stepped:
        row.prompt -= int(amount) if row.prompt else 0
        if row.prompt:
            return Stepped(work=amount)
        row.steps -= 1
        return Stepped((row.steps,), done=row.steps == 0)

    def finish(self, row: Row) -> None: ...


def really(load: Sequence[Given], limits: BatchLimits, *, is_one_shot: bool = False) -> dict[int, tuple[str, float]]:
    world = World(load)
    options: dict[str, Any] = {"name": "stage", "batch": limits, "queue": LINE, "clock": world.clock, "prepare_threads": 1}
    if is_one_shot:
        world.engine = OneShotEngine(PacedOneShot(world), **options)
    else:
        world.engine = IterativeEngine(PacedSteps(world), **options)
    return world.run()


@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(loads())
def test_rows_end_when_the_real_engine_ends_them(load: list[Given]) -> None:
    for limits in (BatchLimits(4), BatchLimits(3, 20.0)):
        assert ends(load, limits=limits) == really(load, limits)


@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(loads(prompts=False, max_items=25))
def test_batches_end_when_the_real_engine_ends_them(load: list[Given]) -> None:
    for limits in (BatchLimits(4), BatchLimits(3, 5.0)):
        assert ends(load, limits=limits, is_one_shot=True) == really(load, limits, is_one_shot=True)
