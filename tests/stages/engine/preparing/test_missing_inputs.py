"""Inputs that turn out to be missing once an item is prepared, or was set aside."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from stages.contract.engine import Handle
from stages.contract.errors import Broken, Cancelled, DeadlineExceeded, StageFailed, Unavailable
from stages.contract.item import Item
from stages.contract.limits import QueueLimits
from stages.contract.recipe import NO_INPUTS
from stages.engine.in_flight import MAX_MISSES
from tests.stages.bench import Bench, CountingEngine, at_hand, number, prepared, submit
from tests.stages.fakes import PATIENCE_S, Count, Countdown, CountFrom, Inbox, PreparedCount


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
