"""A place to try engines on: its clock moves by hand, and a device is busy for as long as its gate is closed."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from stages.contract.engine import Engine, Handle
from stages.contract.errors import Unavailable
from stages.contract.item import Item
from stages.contract.recipe import NO_INPUTS, Inputs, Recipe
from stages.contract.stage import Stepped
from stages.engine.base import BaseEngine
from stages.engine.iterative import IterativeEngine
from stages.engine.one_shot import OneShotEngine
from tests.stages.fakes import (
    PATIENCE_S,
    Add,
    Adder,
    Count,
    Countdown,
    CountFrom,
    Gate,
    HandClock,
    Inbox,
    PreparedCount,
    Sum,
    Total,
)

AddingEngine = OneShotEngine[Add, Sum, Total]
CountingEngine = IterativeEngine[CountFrom, PreparedCount, Count]


class Bench:
    """Engines for one test. Afterwards every gate opens, and every engine must end in good order."""

    def __init__(self) -> None:
        self.engines: list[BaseEngine[Any, Any]] = []
        self.gates: list[Gate] = []
        self.countdowns: list[Countdown] = []
        self.time = HandClock()
        self.overlaps = False

    def gate(self) -> Gate:
        self.gates.append(Gate(closed=True))
        return self.gates[-1]

    def one_shot(self, stage: Adder, **options: Any) -> AddingEngine:
        engine = OneShotEngine(stage, name="adder", clock=self.time.clock, **options)
        self.engines.append(engine)
        return engine

    def iterative(self, stage: Countdown, **options: Any) -> CountingEngine:
        self.countdowns.append(stage)
        if self.overlaps:
            overlap(stage)
        engine = IterativeEngine(stage, name="count", clock=self.time.clock, **options)
        self.engines.append(engine)
        return engine

    def busy_counting(self, stage: Countdown, **options: Any) -> CountingEngine:
        """Its device is busy with the last step of a row, its first arrival at the gate: what comes until that ends starts
        together."""
        engine = self.iterative(stage, **options)
        submit(engine, CountFrom(1, "first"))
        stage.gate.wait_for(1)
        return engine

    def close(self) -> None:
        assert not any(gate.timed_out for gate in self.gates)
        for gate in self.gates:
            gate.open()
        for engine in self.engines:
            engine.check_integrity()
            engine.close(PATIENCE_S)
            assert engine.load().queued == engine.load().running == 0
            with pytest.raises(Unavailable):
                engine.check()
        for stage in self.countdowns:
            assert stage.num_finish_calls == len(stage.started)
            assert stage.running == []


def overlap(stage: Countdown) -> None:
    """It becomes `Overlapping`: what it was given is called as each step begins."""
    given: list[Callable[[], None]] = []
    step = stage.step

    def overlapping(rows: Sequence[Count]) -> Sequence[Stepped]:
        for do in given:
            do()
        return step(rows)

    def while_computing(do: Callable[[], None]) -> bool:
        given.append(do)
        return True

    stage.while_computing = while_computing  # type: ignore[attr-defined]
    stage.step = overlapping  # type: ignore[method-assign]


@contextmanager
def workbench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def submit(engine: Engine[Any], payload: object, inputs: Inputs = NO_INPUTS, **item: Any) -> tuple[Inbox, Handle]:
    inbox = Inbox()
    return inbox, engine.submit(Item("id", payload, **item), inputs, inbox)


def number(name: str) -> Recipe[Total]:
    """A recipe of a number that someone else adds up."""
    return Recipe(name, "model.adder", Add(1))


def at_hand(**totals: int) -> Inputs:
    return Inputs({name: Total.of_int(total) for name, total in totals.items()})


def prepared(engine: BaseEngine[Any, Any], count: int) -> None:
    """Returns once so many items wait, prepared."""
    done = threading.Event()
    while True:
        with engine._in_flight.lock:
            if sum(entry.ready for entry in engine._in_flight.scheduler.waiting) >= count:
                return
        assert not done.wait(0.001)
