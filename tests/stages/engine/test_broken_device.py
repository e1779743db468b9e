"""Devices that break: everything in flight is told so at once, and nothing more is taken in. And stages that never come back."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from stages.contract.errors import Broken, InvalidRequest, StageFailed, Unavailable
from stages.contract.limits import BatchLimits
from stages.contract.stage import Stepped
from stages.engine.base import BaseEngine
from stages.engine.health import FIRST_STEP_FACTOR, MAX_FAILURES
from tests.stages.bench import Bench, prepared, submit
from tests.stages.fakes import PATIENCE_S, Add, Adder, Count, Countdown, CountFrom, Divider, Gate, PreparedCount, Sum, Total

ASSERT = "CUDA error: device-side assert triggered"


class FailingCountdown(Countdown):
    """Fails with `error` in every step that holds a row of key "bad", and in every step once it is `gone`."""

    def __init__(self, error: Exception, *, gone: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.error, self.gone = error, gone

    def step(self, rows: Sequence[Count]) -> Sequence[Stepped]:
        stepped = super().step(rows)
        if self.gone or any(row.payload.key == "bad" for row in rows):
            raise self.error
        return stepped


class FailingAdder(Adder):
    def __init__(self, error: Exception, *, gone: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.error, self.gone = error, gone

    def run(self, batch: Sequence[Sum]) -> Sequence[Total]:
        result = super().run(batch)
        if self.gone or any(item.cost == 99 for item in batch):
            raise self.error
        return result


def is_broken(engine: BaseEngine[Any, Any], why: str) -> None:
    with pytest.raises(Unavailable, match=why):
        engine.check()
    with pytest.raises(Unavailable, match="is broken"):
        submit(engine, CountFrom(1) if engine.result_type is None else Add(1))
    assert engine.load().queued == 0


def test_an_error_that_stays_breaks_the_engine_at_once_and_everything_in_flight_may_run_elsewhere(bench: Bench) -> None:
    stage = FailingCountdown(RuntimeError(ASSERT), slots=2, gate=bench.gate())
    engine = bench.iterative(stage)
    inboxes = [submit(engine, CountFrom(5, "bad"))[0] for _ in range(6)]
    stage.gate.wait_for(1)
    prepared(engine, 6 - engine.load().running)
    engine.check()
    stage.gate.open()
    errors = [inbox.wait().error for inbox in inboxes]
    assert all(isinstance(error, Unavailable) and ASSERT in str(error) for error in errors)
    assert 1 <= sum(isinstance(error, Broken) for error in errors) <= 2  # who was on the device: others only waited
    assert all(inbox.seen == [] for inbox in inboxes)
    is_broken(engine, ASSERT)
    engine._thread.join(30)
    assert stage.running == []  # what its rows held is freed


def test_an_error_that_stays_is_noticed_in_one_rows_answer(bench: Bench) -> None:
    class OneRow(Countdown):
        def step(self, rows: Sequence[Count]) -> Sequence[Stepped]:
            return [Stepped(error=RuntimeError(ASSERT)), *super().step(rows)[1:]]

    stage = OneRow(gate=bench.gate())
    engine = bench.iterative(stage)
    inboxes = [submit(engine, CountFrom(5))[0] for _ in range(3)]
    stage.gate.open()
    errors = [inbox.wait().error for inbox in inboxes]
    assert any(isinstance(error, Broken) for error in errors)
    assert all(isinstance(error, Unavailable) for error in errors)
    is_broken(engine, ASSERT)


def test_an_error_that_stays_is_noticed_at_a_start(bench: Bench) -> None:
    class NoStart(Countdown):
        def start(self, payload: CountFrom, prepared: PreparedCount) -> Count:
            raise RuntimeError(ASSERT)

    engine = bench.iterative(NoStart())
    assert isinstance(submit(engine, CountFrom(1))[0].wait().error, Broken)
    is_broken(engine, ASSERT)


def test_steps_that_fail_again_and_again_break_the_engine(bench: Bench) -> None:
    stage = FailingCountdown(RuntimeError("no such luck"), gone=True)
    engine = bench.iterative(stage)
    errors = [submit(engine, CountFrom(2))[0].wait().error for _ in range(MAX_FAILURES)]
    assert all(isinstance(error, StageFailed) for error in errors)
    engine._thread.join(30)
    is_broken(engine, "batches in a row failed")


def test_bad_items_alone_do_not_break_an_engine_that_has_worked(bench: Bench) -> None:
    stage = FailingCountdown(RuntimeError("no such luck"))
    engine = bench.iterative(stage)
    assert submit(engine, CountFrom(2))[0].wait().error is None
    for _ in range(3 * MAX_FAILURES):
        assert isinstance(submit(engine, CountFrom(2, "bad"))[0].wait().error, StageFailed)
    assert submit(engine, CountFrom(2))[0].wait().error is None
    engine.check()


def test_an_engine_that_has_worked_and_works_no_more_is_found_out(bench: Bench) -> None:
    stage = FailingCountdown(RuntimeError("no such luck"))
    engine = bench.iterative(stage)
    assert submit(engine, CountFrom(2))[0].wait().error is None
    stage.gone = True
    for _ in range(MAX_FAILURES):
        assert isinstance(submit(engine, CountFrom(2))[0].wait().error, StageFailed)
    engine._thread.join(30)
    is_broken(engine, "what went well before fails, too")


def test_requests_that_are_at_fault_themselves_say_nothing_about_the_device(bench: Bench) -> None:
    engine = bench.one_shot(FailingAdder(InvalidRequest("not today"), gone=True))
    for _ in range(3 * MAX_FAILURES):
        assert isinstance(submit(engine, Add(1))[0].wait().error, InvalidRequest)
    engine.check()


def test_a_batch_with_an_error_that_stays_is_not_tried_item_by_item(bench: Bench) -> None:
    stage = FailingAdder(RuntimeError(ASSERT), run_gate=bench.gate())
    engine = bench.one_shot(stage, batch=BatchLimits(max_items=4))
    first, _ = submit(engine, Add(1))
    stage.run_gate.wait_for(1)
    inboxes = [submit(engine, Add(99))[0] for _ in range(6)]
    prepared(engine, 6)
    stage.run_gate.open()
    assert first.total == 1
    errors = [inbox.wait().error for inbox in inboxes]
    assert all(isinstance(error, Unavailable) for error in errors)
    assert [isinstance(error, Broken) for error in errors] == [True] * 4 + [False] * 2  # who was in the batch
    assert len(stage.batches) == 2
    is_broken(engine, ASSERT)


def test_bad_items_of_a_batch_do_not_break_an_engine_that_has_worked(bench: Bench) -> None:
    stage = FailingAdder(RuntimeError("no such luck"))
    engine = bench.one_shot(stage)
    assert submit(engine, Add(1))[0].total == 1
    for _ in range(3 * MAX_FAILURES):
        assert isinstance(submit(engine, Add(99))[0].wait().error, StageFailed)
    assert submit(engine, Add(1))[0].total == 1
    engine.check()


def test_a_device_that_makes_no_numbers_any_more_is_found_out(bench: Bench) -> None:
    stage = Divider()
    engine = bench.one_shot(stage)
    assert submit(engine, Add(1))[0].wait().error is None
    for _ in range(3 * MAX_FAILURES):  # these are at fault themselves: what went well still does
        assert isinstance(submit(engine, Add(1, -1))[0].wait().error, StageFailed)
    assert submit(engine, Add(1))[0].wait().error is None
    stage.is_mad = True
    for _ in range(MAX_FAILURES):
        assert isinstance(submit(engine, Add(1))[0].wait().error, StageFailed)
    engine._thread.join(30)
    is_broken(engine, "what went well before fails, too")


@pytest.mark.parametrize("kind", ["steps", "batches"])
def test_a_batch_that_never_ends_breaks_the_engine_in_bounded_time(bench: Bench, kind: str) -> None:
    gate = bench.gate()
    payload: object
    if kind == "steps":
        engine: BaseEngine[Any, Any] = bench.iterative(Countdown(gate=gate, slots=1), max_step_s=10)
        payload, num_passes = CountFrom(2), 2
    else:
        engine = bench.one_shot(Adder(run_gate=gate), max_step_s=10, batch=BatchLimits(max_items=1))
        payload, num_passes = Add(1), 1
    gate.let(num_passes)
    assert submit(engine, payload)[0].wait().error is None  # the first may take longer
    inboxes = [submit(engine, payload)[0] for _ in range(3)]
    gate.wait_for(num_passes + 1)
    prepared(engine, 2)
    bench.time.now += 9
    engine.check()
    bench.time.now += 2
    is_broken(engine, "a batch has been running for 11 s, and max_step_s allows 10")
    errors = [inbox.wait().error for inbox in inboxes]
    assert all(isinstance(error, Unavailable) for error in errors)
    assert sum(isinstance(error, Broken) for error in errors) == 1  # who was on the device: others only waited


def hanging(bench: Bench, stage: Any, where: str) -> Gate:
    """Where the stage stops, in that method of its."""
    gate, method = bench.gate(), getattr(stage, where)

    def hang(*values: Any) -> Any:
        gate.pass_through()
        return method(*values)

    setattr(stage, where, hang)
    return gate


STEPPING = ("prepare", "share", "can_start", "start", "batch_key", "cost", "step", "finish")
BATCHING = ("prepare", "batch_key", "cost", "run")
AFTER_ALL_BOUNDS_S = 10 * FIRST_STEP_FACTOR + 1


@pytest.mark.parametrize(("kind", "where"), [*(("steps", at) for at in STEPPING), *(("batches", at) for at in BATCHING)])
def test_wherever_a_stage_never_comes_back_its_engine_is_unhealthy_in_bounded_time(
    bench: Bench, kind: str, where: str
) -> None:
    engine: BaseEngine[Any, Any]
    payload: object
    if kind == "steps":
        countdown = Countdown()
        gate, payload = hanging(bench, countdown, where), CountFrom(1)
        engine = bench.iterative(countdown, max_step_s=10)
    else:
        adder = Adder()
        gate, payload = hanging(bench, adder, where), Add(1)
        engine = bench.one_shot(adder, max_step_s=10)
    inbox, _ = submit(engine, payload)
    gate.wait_for(1)
    bench.time.now += 9
    engine.check()
    bench.time.now += AFTER_ALL_BOUNDS_S
    is_broken(engine, "and max_step_s allows")
    error = inbox.wait().error
    assert error is None if where == "finish" else isinstance(error, Broken)  # it is done when it is freed


@pytest.mark.parametrize("where", ["prepare", "step", "finish"])
def test_closing_waits_for_what_runs_but_not_for_what_never_ends(bench: Bench, where: str) -> None:
    stage = Countdown()
    gate = hanging(bench, stage, where)
    engine = bench.iterative(stage, max_step_s=10)
    submit(engine, CountFrom(3 if where == "step" else 1))
    gate.wait_for(1)
    closing = threading.Thread(target=engine.close)
    closing.start()
    closing.join(0.5)
    assert closing.is_alive()
    bench.time.now += AFTER_ALL_BOUNDS_S
    closing.join(PATIENCE_S)
    assert not closing.is_alive()
