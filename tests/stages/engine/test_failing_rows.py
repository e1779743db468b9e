"""A row, a step or a start that fails takes nobody with it."""

from collections.abc import Sequence
from typing import Any

import pytest

from stages.contract.errors import StageFailed
from stages.contract.item import Item
from stages.contract.recipe import NO_INPUTS
from stages.contract.stage import Stepped
from tests.stages.bench import Bench, prepared, submit
from tests.stages.engine.counting import count
from tests.stages.fakes import Count, Countdown, CountFrom, Inbox


def test_a_row_that_fails_fails_alone(bench: Bench) -> None:
    stage = Countdown(gate=bench.gate())
    engine = bench.iterative(stage)
    good, _ = count(engine, 3)
    bad, _ = submit(engine, CountFrom(3, fails_at=1))
    stage.gate.open()
    assert good.wait().seen == [2, 1, 0]
    assert bad.wait().seen == [2, 1]  # what came before the error, and with it, is told
    assert isinstance(bad.error, StageFailed)
    assert "ValueError: the row broke" in str(bad.error)


def test_a_step_that_raises_fails_its_rows_and_the_engine_lives_on(bench: Bench) -> None:
    stage = Countdown(gate=bench.gate())
    engine = bench.iterative(stage)
    first, _ = count(engine, 5, "a")
    stage.gate.wait_for(1)
    second, _ = submit(engine, CountFrom(5, "a", breaks_step_at=3))
    other, _ = count(engine, 5, "b")
    prepared(engine, 2)
    stage.gate.open()
    for inbox in (first, second):
        error = inbox.wait().error
        assert isinstance(error, StageFailed)
        assert "RuntimeError: the step broke" in str(error)
    assert other.wait().seen == [4, 3, 2, 1, 0]
    assert count(engine, 1)[0].wait().seen == [0]
    assert engine.metrics()["failed_total"] == 2


def test_the_log_says_which_rows_a_step_failed_on(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    engine, inbox = bench.iterative(Countdown()), Inbox()
    engine.submit(Item("mine-1:choice:0", CountFrom(5, "a", breaks_step_at=3)), NO_INPUTS, inbox)
    assert isinstance(inbox.wait().error, StageFailed)
    assert "stage count failed on mine-1:choice:0" in caplog.text


def test_a_start_that_raises_fails_alone(bench: Bench) -> None:
    stage = Countdown()
    engine = bench.iterative(stage)
    assert isinstance(count(engine, -1)[0].wait().error, StageFailed)
    assert count(engine, 1)[0].wait().seen == [0]
    assert stage.running == []


@pytest.mark.parametrize("broken", ["can_start", "batch_key", "cost"])
def test_whatever_of_a_stage_raises_fails_one_row_only(bench: Bench, broken: str) -> None:
    class Broken(Countdown):
        def can_start(self, payload: CountFrom) -> bool:
            return self._raise("can_start", payload) and super().can_start(payload)

        def batch_key(self, row: Count) -> str:
            return self._raise("batch_key", row.payload) and row.payload.key

        def cost(self, row: Count) -> float:
            return float(self._raise("cost", row.payload))

        def _raise(self, method: str, payload: CountFrom) -> Any:
            if method == broken and payload.key == "bad":
                raise ArithmeticError(method)
            return True

    stage = Broken()
    engine = bench.iterative(stage)
    good, _ = count(engine, 5)
    bad, _ = count(engine, 5, "bad")
    assert isinstance(bad.wait().error, StageFailed)
    assert good.wait().seen == [4, 3, 2, 1, 0]
    last, _ = count(engine, 1)
    last.wait()
    assert CountFrom(5, "bad") in stage.finished or broken == "can_start"


def test_a_row_whose_key_cannot_be_told_after_a_step_fails_alone(bench: Bench) -> None:
    class Forgetful(Countdown):
        def batch_key(self, row: Count) -> str:
            if row.left == 2 and row.payload.start == 3:
                raise ArithmeticError("forgotten")
            return row.payload.key

    stage = Forgetful(gate=bench.gate())
    engine = bench.iterative(stage)
    good, _ = count(engine, 5)
    stage.gate.wait_for(1)
    bad, _ = count(engine, 3)
    stage.gate.open()
    assert isinstance(bad.wait().error, StageFailed)
    assert good.wait().seen == [4, 3, 2, 1, 0]


def test_a_stage_that_forgets_a_row_in_its_answer_fails_the_step(bench: Bench) -> None:
    class Stingy(Countdown):
        def step(self, rows: Sequence[Count]) -> Sequence[Stepped]:
            return super().step(rows)[1:]

    error = count(bench.iterative(Stingy()), 1)[0].wait().error
    assert isinstance(error, StageFailed)
    assert "0 rows of 1" in error.message


def test_what_has_no_room_even_alone_fails_instead_of_waiting_for_ever(bench: Bench) -> None:
    engine = bench.iterative(Countdown(slots=0))
    error = count(engine, 1)[0].wait().error
    assert isinstance(error, StageFailed)
    assert "no room for this item even when nothing else runs" in error.message


def test_a_finish_that_raises_does_not_stop_the_engine(bench: Bench) -> None:
    class Sticky(Countdown):
        def finish(self, row: Count) -> None:
            super().finish(row)
            raise RuntimeError("stuck")

    engine = bench.iterative(Sticky())
    for _ in range(2):
        assert count(engine, 1)[0].wait().seen == [0]
