"""Memory and preparing: what an error held is given back, and what finds none waits until there is some."""

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from stages.contract.errors import Cancelled, TooLarge, Unavailable
from stages.contract.recipe import Inputs
from stages.contract.stage import Stepped
from stages.engine.base import BaseEngine
from tests.stages.bench import Bench, submit
from tests.stages.fakes import PATIENCE_S, Add, Adder, Count, Countdown, CountFrom, PreparedCount, Sum, Total


class Tensor:
    """Large, and on the device."""


@pytest.mark.parametrize("moment", ["prepare", "start", "step", "run"])
def test_memory_is_given_back_once_the_error_holds_it_no_more(
    bench: Bench, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors: list[weakref.ref[Tensor]] = []
    held: list[bool] = []

    def run_out(now: str) -> None:
        if now == moment and not tensors:
            tensor = Tensor()
            tensors.append(weakref.ref(tensor))
            raise MemoryError

    class FullCountdown(Countdown):
        def prepare(self, payload: CountFrom, inputs: Inputs) -> PreparedCount:
            run_out("prepare")
            return super().prepare(payload, inputs)

        def start(self, payload: CountFrom, prepared: PreparedCount) -> Count:
            run_out("start")
            return super().start(payload, prepared)

        def step(self, rows: Sequence[Count]) -> Sequence[Stepped]:
            run_out("step")
            return super().step(rows)

    class FullAdder(Adder):
        def run(self, batch: Sequence[Sum]) -> Sequence[Total]:
            run_out("run")
            return super().run(batch)

    monkeypatch.setattr("stages.engine.device_faults.empty_cache", lambda device: held.append(tensors[0]() is not None))
    engine: BaseEngine[Any, Any] = bench.one_shot(FullAdder()) if moment == "run" else bench.iterative(FullCountdown())
    submit(engine, Add(1) if moment == "run" else CountFrom(1))[0].wait()
    assert held == [False]


class CrampedCountdown(Countdown):
    """What is prepared holds memory until its row is freed; there is enough for `fits` at once."""

    def __init__(self, fits: int, **options: Any) -> None:
        super().__init__(**options)
        self.fits, self.num_held, self.num_out_of_memory = fits, 0, 0
        self._memory = threading.Lock()

    def prepare(self, payload: CountFrom, inputs: Inputs) -> PreparedCount:
        with self._memory:
            if self.num_held == self.fits:
                self.num_out_of_memory += 1
                raise MemoryError
            self.num_held += 1
        return super().prepare(payload, inputs)

    def finish(self, row: Count) -> None:
        super().finish(row)
        with self._memory:
            self.num_held -= 1


@pytest.mark.parametrize("fits", [1, 2, 3])
def test_what_finds_no_memory_to_be_prepared_waits_until_something_has_ended(bench: Bench, fits: int) -> None:
    stage = CrampedCountdown(fits)
    engine = bench.iterative(stage)
    inboxes = [submit(engine, CountFrom(2))[0] for _ in range(12)]
    for inbox in inboxes:
        assert inbox.wait().seen == [1, 0]
    assert engine.metrics()["out_of_memory_total"] == stage.num_out_of_memory
    assert engine.metrics()["failed_total"] == 0


def test_what_finds_no_memory_while_the_last_one_that_held_it_ends_is_tried_again(bench: Bench) -> None:
    class LateWord(Countdown):
        """The second is told that there is no memory only once the first, which held it, has ended."""

        num_tried = 0

        def prepare(self, payload: CountFrom, inputs: Inputs) -> PreparedCount:
            self.num_tried += 1
            if self.num_tried == 2:
                began.set()
                first.wait()
                while engine.load().num_items > 1 or engine.metrics()["running"]:
                    pass
                raise MemoryError
            return super().prepare(payload, inputs)

    began, stage = threading.Event(), LateWord(gate=bench.gate())
    engine = bench.iterative(stage)
    first, _ = submit(engine, CountFrom(2))
    stage.gate.wait_for(1)
    second, _ = submit(engine, CountFrom(2))
    assert began.wait(PATIENCE_S)
    stage.gate.open()
    assert second.wait().seen == [1, 0]


def test_a_row_that_is_being_freed_holds_its_memory_until_it_is(bench: Bench) -> None:
    class SlowlyFreed(CrampedCountdown):
        def finish(self, row: Count) -> None:
            freeing.set()
            assert tried.wait(PATIENCE_S)
            super().finish(row)

        def prepare(self, payload: CountFrom, inputs: Inputs) -> PreparedCount:
            try:
                return super().prepare(payload, inputs)
            except MemoryError:
                told.set()
                raise

    freeing, told, tried = threading.Event(), threading.Event(), threading.Event()
    engine = bench.iterative(SlowlyFreed(1))
    first, _ = submit(engine, CountFrom(2))
    assert freeing.wait(PATIENCE_S)
    second, _ = submit(engine, CountFrom(2))
    assert told.wait(PATIENCE_S)
    while not engine.metrics()["out_of_memory_total"]:
        assert not second.num_endings
    tried.set()
    assert first.wait().error is None
    assert second.wait().seen == [1, 0]


def test_what_finds_no_memory_to_be_prepared_even_alone_is_too_large(bench: Bench) -> None:
    engine = bench.iterative(CrampedCountdown(0))
    errors = [submit(engine, CountFrom(2))[0].wait().error for _ in range(2)]
    assert all(isinstance(error, TooLarge) for error in errors)


def test_two_that_find_no_memory_together_are_tried_one_by_one(bench: Bench) -> None:
    class Together(Countdown):
        """The first two are prepared at the same moment, and neither finds room beside the other."""

        num_tried = 0

        def prepare(self, payload: CountFrom, inputs: Inputs) -> PreparedCount:
            self.num_tried += 1
            if self.num_tried <= 2:
                both.wait(PATIENCE_S)
                raise MemoryError
            return super().prepare(payload, inputs)

    both = threading.Barrier(2)
    engine = bench.iterative(Together())
    inboxes = [submit(engine, CountFrom(2))[0] for _ in range(2)]
    assert all(inbox.wait().seen == [1, 0] for inbox in inboxes)


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_what_waits_for_memory_to_be_prepared_in_ends_properly(bench: Bench, how: str) -> None:
    stage = CrampedCountdown(1, gate=bench.gate())
    engine = bench.iterative(stage)
    first, _ = submit(engine, CountFrom(2))
    stage.gate.wait_for(1)
    second, handle = submit(engine, CountFrom(2))
    while not stage.num_out_of_memory:
        assert not second.num_endings
    closing = threading.Thread(target=engine.close if how == "close" else handle.cancel)
    closing.start()
    assert isinstance(second.wait().error, Unavailable if how == "close" else Cancelled)
    stage.gate.open()
    closing.join(PATIENCE_S)
    assert isinstance(first.wait().error, Unavailable if how == "close" else type(None))
