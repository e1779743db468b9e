"""Preparing on a pool's threads, for both kinds of engine, and inputs that turn out to be missing."""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from stages.contract.engine import Handle
from stages.contract.errors import Broken, Cancelled, DeadlineExceeded, InvalidRequest, StageFailed, TooLarge, Unavailable
from stages.contract.item import Item
from stages.contract.limits import QueueLimits
from stages.contract.recipe import NO_INPUTS, Inputs
from stages.contract.stage import Share, Stepped
from stages.contract.wanted import stop_if_unwanted
from stages.engine.base import BaseEngine
from stages.engine.in_flight import MAX_MISSES
from tests.stages.bench import Bench, CountingEngine, at_hand, number, prepared, submit, workbench
from tests.stages.fakes import PATIENCE_S, Add, Adder, Count, Countdown, CountFrom, Gate, Inbox, PreparedCount, Sum, Total


@pytest.fixture
def bench() -> Iterator[Bench]:
    with workbench() as bench:
        yield bench


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


# ---- inputs that are missing after all ----


def missing(engine: CountingEngine, size: int = 2, *names: str, **item: Any) -> tuple[Inbox, Handle]:
    """It can't start without numbers that its stage had said to have."""
    inbox, handle = submit(engine, CountFrom(size, plus=tuple(number(name) for name in names or ("x",))), **item)
    inbox.wait_for_missing()
    return inbox, handle


def test_what_misses_an_input_is_told_so_counts_for_nothing_and_goes_on_once_it_is_supplied(bench: Bench) -> None:
    stage = Countdown(slots=1)
    engine = bench.iterative(stage, queue=QueueLimits(max_items=1))
    inbox, handle = missing(engine)
    assert inbox.missed == [("x",)]
    assert (engine.load().queued, engine.load().running) == (0, 0)
    assert stage.started == []
    assert submit(engine, CountFrom(1))[0].wait().error is None  # nobody waits for it
    handle.supply(at_hand(x=1))
    assert inbox.wait().seen == [2, 1, 0]
    assert engine.metrics()["missing_inputs_total"] == 1


def test_it_is_prepared_again_with_what_it_had_and_what_is_new(bench: Bench) -> None:
    stage = Countdown()
    engine = bench.iterative(stage)
    payload = CountFrom(1, plus=(number("x"), number("y")))
    inbox, handle = submit(engine, payload, at_hand(x=1))
    assert inbox.wait_for_missing() == ("y",)
    handle.supply(at_hand(y=2))
    assert inbox.wait().seen == [3, 2, 1, 0]


def test_it_waits_again_with_the_rank_of_its_first_arrival(bench: Bench) -> None:
    stage = Countdown(slots=1, gate=bench.gate())
    engine = bench.iterative(stage, queue=QueueLimits(max_items=2))
    first, handle = missing(engine)
    running, _ = submit(engine, CountFrom(1))
    stage.gate.wait_for(1)
    bench.time.now += 1
    later = [submit(engine, CountFrom(size))[0] for size in (11, 12)]
    prepared(engine, 2)
    handle.supply(at_hand(x=0))
    prepared(engine, 3)  # whatever the bound, for it was let in before
    stage.gate.open()
    for inbox in (first, running, *later):
        assert inbox.wait().error is None
    assert [payload.start for payload in stage.started] == [1, 2, 11, 12]
    assert first.receipt is not None
    assert first.receipt.queue_s == 1


def test_a_suspended_row_that_misses_an_input_goes_on_where_it_stopped(bench: Bench) -> None:
    stage = Countdown(slots=1, gate=bench.gate())
    stage.knows["x"] = 1
    engine = bench.iterative(stage)
    patient, handle = submit(engine, CountFrom(3, plus=(number("x"),)), priority=1)
    stage.gate.let(1)
    stage.gate.wait_for(2)
    urgent, _ = submit(engine, CountFrom(1))
    prepared(engine, 1)
    stage.knows.clear()
    stage.gate.open()
    assert urgent.wait().error is None
    assert patient.wait_for_missing() == ("x",)
    assert patient.seen == [3, 2]
    assert engine.load().running == 0
    handle.supply(at_hand(x=1))
    assert patient.wait().seen == [3, 2, 1, 0]


@pytest.mark.parametrize("suspended", [False, True])
@pytest.mark.parametrize("how", ["cancel", "expire", "too late to supply", "close", "broken"])
def test_what_waits_for_inputs_ends_properly(bench: Bench, how: str, suspended: bool) -> None:
    class Lost(Countdown):
        def can_start(self, payload: CountFrom) -> bool:
            if payload.key == "lost":
                raise RuntimeError("CUDA error: device-side assert triggered")
            return super().can_start(payload)

    stage = Lost(slots=1, gate=bench.gate())
    engine = bench.iterative(stage)
    inbox, handle = waits_for_inputs(bench, engine, stage, suspended=suspended)
    expected: type[Exception] = {"cancel": Cancelled, "close": Unavailable, "broken": Broken}.get(how, DeadlineExceeded)
    acts: dict[str, Callable[[], object]] = {
        "cancel": handle.cancel,
        "expire": handle.expire,
        "close": engine.close,
        "broken": lambda: submit(engine, CountFrom(1, "lost")),
    }
    if how == "too late to supply":
        bench.time.now += 50
    else:
        acts[how]()
        assert isinstance(inbox.wait().error, expected)
    handle.supply(at_hand(x=1))
    assert isinstance(inbox.wait().error, expected)
    assert inbox.num_endings == 1
    assert len(stage.started) == suspended * 2  # it, and whoever it made way for
    assert engine.load().queued == 0


def waits_for_inputs(bench: Bench, engine: CountingEngine, stage: Countdown, *, suspended: bool) -> tuple[Inbox, Handle]:
    payload, deadline = CountFrom(3, plus=(number("x"),)), bench.time.deadline(50)
    if suspended:
        stage.knows["x"] = 1
    inbox, handle = submit(engine, payload, priority=1, deadline=deadline)
    if suspended:
        stage.gate.wait_for(1)
        urgent, _ = submit(engine, CountFrom(1))
        prepared(engine, 1)
        stage.knows.clear()
    stage.gate.open()
    inbox.wait_for_missing()
    if suspended:
        urgent.wait()
    return inbox, handle


def test_a_deadline_that_passes_while_inputs_are_missing_is_noticed_at_the_devices_next_turn(bench: Bench) -> None:
    engine = bench.iterative(Countdown())
    inbox, _ = missing(engine, deadline=bench.time.deadline(5))
    bench.time.now += 5
    assert submit(engine, CountFrom(1))[0].wait().error is None
    assert isinstance(inbox.wait().error, DeadlineExceeded)


def test_what_waits_for_inputs_can_be_amended(bench: Bench) -> None:
    engine = bench.iterative(Countdown())
    inbox, handle = missing(engine, deadline=bench.time.deadline(5))
    assert handle.amend(priority=-1, deadline=bench.time.deadline(50))
    bench.time.now += 6
    handle.supply(at_hand(x=0))
    assert inbox.wait().seen == [1, 0]


def test_a_stage_that_asks_again_and_again_fails_the_item_in_the_end(bench: Bench) -> None:
    engine = bench.iterative(Countdown())
    inbox, handle = missing(engine)
    for times in range(1, MAX_MISSES):
        handle.supply(NO_INPUTS)
        inbox.wait_for_missing(times + 1)
    handle.supply(NO_INPUTS)
    error = inbox.wait().error
    assert isinstance(error, StageFailed)
    assert f"asked for inputs {MAX_MISSES + 1} times" in error.message
    assert submit(engine, CountFrom(1))[0].wait().error is None
    engine.check()


def test_what_loses_one_input_after_the_other_is_given_all_of_them_the_second_time(bench: Bench) -> None:
    class Forgetful(Countdown):
        """Of what it holds, one more is gone whenever a row would start."""

        def start(self, payload: CountFrom, prepared: PreparedCount) -> Count:
            if self.knows:
                self.knows.pop(min(self.knows))
            return super().start(payload, prepared)

    stage = Forgetful()
    stage.knows.update(dict.fromkeys("abcd", 1))
    engine = bench.iterative(stage)
    payload = CountFrom(1, plus=tuple(map(number, "abcd")))
    assert not engine.needs(payload)
    inbox, handle = submit(engine, payload)
    assert inbox.wait_for_missing(1) == ("a",)
    handle.supply(at_hand(a=1))
    assert inbox.wait_for_missing(2) == ("b", "c", "d")
    handle.supply(at_hand(b=1, c=1, d=1))
    assert inbox.wait().seen == [4, 3, 2, 1, 0]


def test_supplying_what_nothing_misses_changes_nothing(bench: Bench) -> None:
    stage = Countdown(gate=bench.gate())
    engine = bench.iterative(stage)
    inbox, handle = submit(engine, CountFrom(2))
    stage.gate.wait_for(1)
    handle.supply(at_hand(x=1))
    stage.gate.open()
    assert inbox.wait().seen == [1, 0]
    handle.supply(at_hand(x=1))
    assert stage.num_prepared == 1
    assert inbox.num_endings == 1


def test_inputs_may_be_supplied_at_once_when_they_are_asked_for(bench: Bench) -> None:
    class Prompt(Inbox):
        def missing(self, recipes: Any) -> None:
            super().missing(recipes)
            has_handle.wait(PATIENCE_S)
            handles[0].supply(at_hand(x=1))

    has_handle, handles, inbox = threading.Event(), list[Handle](), Prompt()
    engine = bench.iterative(Countdown())
    handles.append(engine.submit(Item("id", CountFrom(1, plus=(number("x"),))), NO_INPUTS, inbox))
    has_handle.set()
    assert inbox.wait().seen == [1, 0]


def test_what_a_stage_holds_need_not_be_given_it_and_says_so(bench: Bench) -> None:
    stage = Countdown()
    engine, payload = bench.iterative(stage), CountFrom(1, plus=(number("x"), number("y")))
    assert [recipe.name for recipe in engine.needs(payload)] == ["x", "y"]
    stage.knows["x"] = 5
    assert [recipe.name for recipe in engine.needs(payload)] == ["y"]
    assert list(engine.residency()) == ["x"]
    assert submit(engine, payload, at_hand(y=1))[0].wait().seen == [6, 5, 4, 3, 2, 1, 0]


def test_who_probes_a_suspected_device_starts_only_what_needs_nothing(bench: Bench) -> None:
    class Failing(Countdown):
        def step(self, rows: Any) -> Any:
            if any(row.payload.key == "bad" for row in rows):
                raise ValueError("bad luck")
            return super().step(rows)

    stage = Failing()
    stage.knows["x"] = 0
    engine = bench.iterative(stage)
    assert submit(engine, CountFrom(1, "whole"))[0].wait().error is None
    assert submit(engine, CountFrom(1, "partial", plus=(number("x"),)))[0].wait().error is None
    stage.knows.clear()
    for _ in range(20):
        assert isinstance(submit(engine, CountFrom(1, "bad"))[0].wait().error, StageFailed)
    assert submit(engine, CountFrom(1))[0].wait().error is None
    engine.check()
