"""A place to try engines on: its clock moves by hand, and a device is busy for as long as its gate is closed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from stages.contract.errors import Unavailable
from stages.contract.item import Item
from stages.engine.engine import Engine, Handle
from stages.engine.iterative_engine import IterativeEngine
from stages.engine.one_shot_engine import OneShotEngine
from tests.stages.fakes import PATIENCE_S, Adder, Count, Countdown, CountFrom, Gate, HandClock, Inbox, Sum


class Bench:
    """Engines for one test. Afterwards every gate opens, and every engine must end in good order."""

    def __init__(self) -> None:
        self.engines: list[Engine[Any]] = []
        self.gates: list[Gate] = []
        self.countdowns: list[Countdown] = []
        self.time = HandClock()

    def gate(self) -> Gate:
        self.gates.append(Gate(closed=True))
        return self.gates[-1]

    def one_shot(self, stage: Adder, **options: Any) -> OneShotEngine[tuple[int, int], Sum]:
        engine = OneShotEngine(stage, name="adder", clock=self.time.clock, **options)
        self.engines.append(engine)
        return engine

    def iterative(self, stage: Countdown, **options: Any) -> IterativeEngine[CountFrom, Count]:
        self.countdowns.append(stage)
        engine = IterativeEngine(stage, name="count", clock=self.time.clock, **options)
        self.engines.append(engine)
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


@contextmanager
def workbench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def submit(engine: Engine[Any], payload: object, **item: Any) -> tuple[Inbox, Handle]:
    inbox = Inbox()
    return inbox, engine.submit(Item("id", payload, **item), inbox)


def prepared(engine: Engine[Any], stage: Adder, count: int) -> None:
    """Returns once so many items wait, prepared."""
    done = threading.Event()
    while len([entry for entry in engine._scheduler.waiting if entry.ready]) < count:
        assert not done.wait(0.001)
    assert stage.num_prepared >= count
