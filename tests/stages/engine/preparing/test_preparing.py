"""Preparing on a pool's threads, for both kinds of engine."""

import threading
from typing import Any

import pytest

from stages.contract.engine import Handle
from stages.contract.errors import Broken, Cancelled, DeadlineExceeded, InvalidRequest, StageFailed, Unavailable
from stages.contract.recipe import Inputs
from stages.contract.stage import Share
from stages.contract.wanted import stop_if_unwanted
from stages.engine.base import BaseEngine
from tests.stages.bench import Bench, at_hand, number, prepared, submit
from tests.stages.fakes import PATIENCE_S, Add, Adder, Countdown, CountFrom, Gate, Inbox, PreparedCount, Sum


class Kind:
    """An engine of either kind whose items stop at a gate while they are prepared."""

    def __init__(self, bench: Bench, name: str, **options: Any) -> None:
        self.gate = bench.gate()
        self.stage: Adder | Countdown
        self.engine: BaseEngine[Any, Any]
        if name == "batches":
            self.stage = Adder(prepare_gate=self.gate)
            self.engine = bench.one_shot(self.stage, **options)
        else:
            self.stage = Countdown(prepare_gate=self.gate)
            self.engine = bench.iterative(self.stage, **options)

    def submit(self, size: int, **item: Any) -> tuple[Inbox, Handle]:
        return submit(self.engine, Add(size) if isinstance(self.stage, Adder) else CountFrom(size), **item)

    @property
    def sizes_run(self) -> list[int]:
        """Of what has reached the device."""
        if isinstance(self.stage, Adder):
            return [total for batch in self.stage.batches for total in batch]
        return [payload.start for payload in self.stage.started]


@pytest.fixture(params=["batches", "steps"])
def kind(bench: Bench, request: pytest.FixtureRequest) -> Kind:
    return Kind(bench, request.param)


def test_where_the_system_has_no_thread_an_item_is_refused_and_keeps_no_place(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(kind.engine._pool, "submit", no_thread)
        inbox, _ = kind.submit(3)
        error = inbox.wait().error
    assert isinstance(error, Unavailable)
    assert kind.engine.load().queued == 0
    kind.gate.open()
    inbox, _ = kind.submit(3)
    assert inbox.wait().error is None


def test_what_is_being_prepared_waits_and_does_not_run(kind: Kind) -> None:
    inbox, _ = kind.submit(3)
    kind.gate.wait_for(1)
    assert (kind.engine.load().queued, kind.engine.load().running) == (1, 0)
    assert kind.engine.metrics()["preparing"] == 1
    assert kind.sizes_run == []
    kind.gate.open()
    assert inbox.wait().error is None
    assert kind.engine.metrics()["preparing"] == 0


@pytest.mark.parametrize("how", ["cancel", "expire", "deadline", "close"])
def test_what_ends_while_it_is_prepared_never_starts(bench: Bench, kind: Kind, how: str) -> None:
    inbox, handle = kind.submit(3, deadline=bench.time.deadline(5))
    kind.gate.wait_for(1)
    closing = threading.Thread(target=kind.engine.close)
    if how == "close":
        closing.start()
    elif how == "deadline":
        bench.time.now += 5
        handle.cancel()  # whoever waits has a timer
    else:
        getattr(handle, how)()
    expected = {"cancel": Cancelled, "expire": DeadlineExceeded, "deadline": DeadlineExceeded, "close": Unavailable}[how]
    assert isinstance(inbox.wait().error, expected)
    assert kind.engine.load().queued == 0
    kind.gate.open()
    if how == "close":
        closing.join(PATIENCE_S)
    else:
        assert kind.submit(4)[0].wait().error is None
    assert 3 not in kind.sizes_run
    assert inbox.num_endings == 1


class LongPreparation(Adder):
    """Asks between its two pieces whether anybody still waits, and counts who got to the second."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(prepare_gate=gate)
        self.stopped = 0

    def prepare(self, payload: Add, inputs: Inputs) -> Sum:
        prepared = super().prepare(payload, inputs)
        try:
            stop_if_unwanted()
        except Cancelled:
            self.stopped += 1
            raise
        return prepared


@pytest.mark.parametrize("how", ["cancel", "expire"])
def test_a_preparation_that_nobody_waits_for_any_more_can_tell(bench: Bench, how: str) -> None:
    gate = bench.gate()
    stage = LongPreparation(gate)
    engine = bench.one_shot(stage)
    inbox, handle = submit(engine, Add(3))
    gate.wait_for(1)
    getattr(handle, how)()
    gate.open()
    assert submit(engine, Add(4))[0].wait().error is None
    engine.close()
    assert stage.stopped == 1
    assert inbox.num_endings == 1


def test_a_deadline_that_passes_while_it_is_prepared_is_noticed_once_it_would_run(bench: Bench, kind: Kind) -> None:
    inbox, _ = kind.submit(3, deadline=bench.time.deadline(5))
    kind.gate.wait_for(1)
    bench.time.now += 5
    kind.gate.open()
    error = inbox.wait().error
    assert isinstance(error, DeadlineExceeded)
    assert "it waited 5.0 s in the queue" in error.message
    assert kind.sizes_run == []
    assert kind.engine.metrics()["expired_total"] == 1


@pytest.mark.parametrize("name", ["batches", "steps"])
def test_a_preparation_that_never_ends_is_noticed_and_its_item_has_ended_before(bench: Bench, name: str) -> None:
    kind = Kind(bench, name, max_step_s=10, prepare_threads=1)
    kind.gate.let(1)
    assert kind.submit(1)[0].wait().error is None
    hanging, handle = kind.submit(3, deadline=bench.time.deadline(5))
    kind.gate.wait_for(2)
    behind, _ = kind.submit(4)
    bench.time.now += 5
    handle.expire()  # whoever waits has a timer
    assert isinstance(hanging.wait().error, DeadlineExceeded)
    kind.engine.check()
    bench.time.now += 6
    with pytest.raises(Unavailable, match="an item has been prepared for 11 s, and max_step_s allows 10"):
        kind.engine.check()
    assert isinstance(behind.wait().error, Unavailable)  # it only waited
    assert kind.engine.is_broken


def test_who_is_prepared_first_does_not_go_first(bench: Bench) -> None:
    class Uneven(Countdown):
        """Larger ones take longer to prepare."""

        def prepare(self, payload: CountFrom, inputs: Inputs) -> PreparedCount:
            if payload.start == 5:
                slow.pass_through()
            return super().prepare(payload, inputs)

    slow = bench.gate()
    stage = Uneven(slots=1, gate=bench.gate())
    engine = bench.busy_counting(stage)
    large, small = submit(engine, CountFrom(5))[0], submit(engine, CountFrom(1))[0]
    prepared(engine, 1)
    slow.open()
    prepared(engine, 2)
    stage.gate.open()
    assert large.wait().error is small.wait().error is None
    assert [payload.start for payload in stage.started] == [1, 5, 1]


@pytest.mark.parametrize(
    "error", [InvalidRequest("not like this", param="a"), ArithmeticError("no"), SystemExit("nobody should")]
)
@pytest.mark.parametrize("name", ["batches", "steps"])
def test_what_cannot_be_prepared_fails_alone(bench: Bench, name: str, error: BaseException) -> None:
    class BadAdder(Adder):
        def prepare(self, payload: Add, inputs: Inputs) -> Sum:
            if payload.a == 7:
                raise error
            return super().prepare(payload, inputs)

    class BadCountdown(Countdown):
        def prepare(self, payload: CountFrom, inputs: Inputs) -> PreparedCount:
            if payload.start == 7:
                raise error
            return super().prepare(payload, inputs)

    engine: BaseEngine[Any, Any] = bench.one_shot(BadAdder()) if name == "batches" else bench.iterative(BadCountdown())
    bad, good = (submit(engine, Add(size) if name == "batches" else CountFrom(size))[0] for size in (7, 3))
    failure = bad.wait().error
    assert isinstance(failure, InvalidRequest if isinstance(error, InvalidRequest) else StageFailed)
    assert good.wait().error is None
    assert engine.metrics()["failed_total"] == 1
    engine.check()


def test_an_error_that_stays_is_noticed_while_preparing(bench: Bench) -> None:
    class Lost(Countdown):
        def prepare(self, payload: CountFrom, inputs: Inputs) -> PreparedCount:
            raise RuntimeError("CUDA error: device-side assert triggered")

    engine = bench.iterative(Lost())
    assert isinstance(submit(engine, CountFrom(3))[0].wait().error, Broken)
    with pytest.raises(Unavailable, match="device-side assert"):
        engine.check()


@pytest.mark.parametrize("broken", ["weigh", "share"])
def test_a_cost_that_cannot_be_is_the_stages_fault(bench: Bench, broken: str) -> None:
    class Endless(Countdown):
        def weigh(self, payload: CountFrom) -> float:
            return float("inf") if broken == "weigh" and payload.start == 7 else 1.0

        def share(self, prepared: PreparedCount) -> Share:
            return Share(prepared.key, float("nan") if broken == "share" and prepared.key == "bad" else 1.0)

    engine = bench.iterative(Endless())
    if broken == "weigh":
        with pytest.raises(StageFailed, match="cost"):
            submit(engine, CountFrom(7))
    else:
        assert isinstance(submit(engine, CountFrom(7, "bad"))[0].wait().error, StageFailed)
    assert submit(engine, CountFrom(1))[0].wait().error is None


def test_neither_the_devices_thread_nor_the_callers_prepares(bench: Bench) -> None:
    threads: set[str] = set()

    class Watched(Countdown):
        def prepare(self, payload: CountFrom, inputs: Inputs) -> PreparedCount:
            threads.add(threading.current_thread().name)
            return super().prepare(payload, inputs)

    stage = Watched()
    engine = bench.iterative(stage)
    inbox, handle = submit(engine, CountFrom(2, plus=(number("x"),)))
    inbox.wait_for_missing()
    handle.supply(at_hand(x=1))
    assert inbox.wait().seen == [2, 1, 0]
    assert stage.num_prepared == 2
    assert all(name.startswith("prepare count") for name in threads)


def test_an_item_is_prepared_with_its_inputs(bench: Bench) -> None:
    engine = bench.one_shot(Adder())
    inbox, _ = submit(engine, Add(1, plus=(number("x"), number("y"))), at_hand(x=10, y=100))
    assert inbox.total == 111
