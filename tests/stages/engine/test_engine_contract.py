"""What whoever uses an engine may rely on, whichever it is: ours of both kinds, and one that schedules itself."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from stages.contract.engine import Engine, Handle
from stages.contract.errors import Cancelled, DeadlineExceeded, InvalidRequest, QueueFull, StageFailed, Unavailable
from stages.contract.limits import QueueLimits
from stages.contract.recipe import NO_INPUTS, Inputs, Recipe
from tests.stages.bench import Bench, at_hand, number, submit, workbench
from tests.stages.engine.self_scheduling import SelfSchedulingEngine
from tests.stages.fakes import PATIENCE_S, Add, Adder, Countdown, CountFrom, Inbox, Total

ENGINES = ["batches", "steps", "schedules itself"]


class Subject:
    """An engine, and what differs: how to ask it for `size`, what it answers, and where its device stops."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.name, self.time, self.gate = name, bench.time, bench.gate()
        self.engine: Engine[Any]
        if name == "batches":
            self.engine = bench.one_shot(Adder(run_gate=self.gate))
        elif name == "steps":
            self.stage = Countdown(slots=1, gate=self.gate)
            self.engine, self.knows = bench.iterative(self.stage), self.stage.knows
        else:
            engine = SelfSchedulingEngine(gate=self.gate, time=bench.time)
            self.engine, self.knows = engine, engine.knows

    def payload(self, size: int, *plus: Recipe[Total]) -> Add | CountFrom:
        return Add(size, plus=plus) if self.name == "batches" else CountFrom(size, plus=plus)

    def submit(self, size: int, *plus: str, inputs: Inputs = NO_INPUTS, **item: Any) -> tuple[Inbox, Handle]:
        return submit(self.engine, self.payload(size, *map(number, plus)), inputs, **item)

    def occupied(self, size: int = 1) -> tuple[Inbox, Handle]:
        """An item on the device."""
        submitted = self.submit(size)
        self.gate.wait_for(1)
        return submitted

    def answers(self, inbox: Inbox, size: int) -> bool:
        inbox.wait()
        if inbox.error is not None:
            raise inbox.error
        assert inbox.receipt is not None
        assert inbox.num_endings == 1
        return inbox.total == size if self.name == "batches" else inbox.seen == list(reversed(range(size)))

    def works(self) -> bool:
        self.gate.open()
        return self.answers(self.submit(1)[0], 1)


@contextmanager
def hosted(name: str) -> Iterator[Subject]:
    with workbench() as bench:
        subject = Subject(bench, name)
        yield subject
        subject.gate.open()
        subject.engine.close(PATIENCE_S)


@pytest.fixture(params=ENGINES)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with hosted(request.param) as subject:
        yield subject


@pytest.fixture(params=ENGINES[1:])
def picky(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """One that may find that inputs are missing; a batch's items are given all that they need before."""
    with hosted(request.param) as subject:
        yield subject


def test_an_engine_says_who_it_is_and_what_it_makes(subject: Subject) -> None:
    assert subject.engine.identity.device == "cpu"
    assert subject.engine.identity.stage in ("adder", "count")
    assert subject.engine.result_type is (Total if subject.name == "batches" else None)
    assert not subject.engine.is_broken
    subject.engine.check()


def test_an_item_gets_its_answer_and_a_receipt(subject: Subject) -> None:
    subject.gate.open()
    inbox, handle = subject.submit(3)
    assert subject.answers(inbox, 3)
    handle.cancel()
    handle.expire()
    assert handle.amend(0, float("inf"))  # it has its answer, and has not failed
    assert inbox.num_endings == 1


def test_results_at_hand_take_part(subject: Subject) -> None:
    assert [recipe.name for recipe in subject.engine.needs(subject.payload(1, number("x")))] == ["x"]
    subject.gate.open()
    assert subject.answers(subject.submit(1, "x", inputs=at_hand(x=2))[0], 3)


def test_what_could_never_run_is_refused_at_once(subject: Subject) -> None:
    with pytest.raises(InvalidRequest):
        subject.submit(1001)
    assert subject.works()


def test_what_could_never_run_is_refused_before_its_inputs_are_made(subject: Subject) -> None:
    with pytest.raises(InvalidRequest):
        subject.engine.needs(subject.payload(1001, number("x")))


def test_what_finds_the_queue_full_is_refused_before_its_inputs_are_made(subject: Subject) -> None:
    subject.occupied()
    subject.engine.limit_queue(QueueLimits(max_items=1))
    waiting, _ = subject.submit(2)
    with pytest.raises(QueueFull) as refused:
        subject.engine.needs(subject.payload(3, number("x")))
    assert refused.value.retry_after_s
    subject.gate.open()
    assert subject.answers(waiting, 2)
    assert subject.engine.needs(subject.payload(3, number("x")))


def test_what_comes_too_late_is_refused(subject: Subject) -> None:
    with pytest.raises(DeadlineExceeded):
        subject.submit(1, deadline=subject.time.deadline(0))
    assert subject.works()


def test_load_tells_what_waits_and_what_runs(subject: Subject) -> None:
    assert (subject.engine.load().queued, subject.engine.load().running) == (0, 0)
    subject.occupied()
    subject.submit(2)
    load = subject.engine.load()
    assert (load.queued, load.running) == (1, 1)
    assert load.seconds_ahead >= 0
    metrics = subject.engine.metrics()
    assert (metrics["queued"], metrics["running"]) == (1, 1)


def test_the_queue_is_bounded_and_its_bounds_may_change(subject: Subject) -> None:
    subject.occupied()
    subject.engine.limit_queue(QueueLimits(max_items=1))
    waiting, _ = subject.submit(2)
    with pytest.raises(QueueFull) as refused:
        subject.submit(3)
    assert refused.value.retry_after_s
    subject.engine.limit_queue(QueueLimits(max_items=2))
    more, _ = subject.submit(3)
    subject.gate.open()
    assert subject.answers(waiting, 2)
    assert subject.answers(more, 3)


@pytest.mark.parametrize("moment", ["waiting", "running"])
@pytest.mark.parametrize("how", ["cancel", "expire", "cancel past the deadline"])
def test_an_item_may_be_withdrawn_at_any_moment(subject: Subject, moment: str, how: str) -> None:
    running = subject.submit(5, deadline=subject.time.deadline(10))
    subject.gate.wait_for(1)
    waiting = subject.submit(4, deadline=subject.time.deadline(10))
    inbox, handle = running if moment == "running" else waiting
    if how == "expire":
        handle.expire()
    else:
        subject.time.now += 11 if how == "cancel past the deadline" else 0
        handle.cancel()
    handle.cancel()
    assert isinstance(inbox.wait().error, Cancelled if how == "cancel" else DeadlineExceeded)
    assert not handle.amend(0, float("inf"))
    assert subject.works()
    assert inbox.num_endings == 1
    assert inbox.seen == []


def test_a_later_deadline_counts_once_someone_else_wants_the_result(subject: Subject) -> None:
    subject.occupied()
    inbox, handle = subject.submit(2, deadline=subject.time.deadline(5))
    late, _ = subject.submit(3, deadline=subject.time.deadline(5))
    assert handle.amend(priority=-1, deadline=subject.time.deadline(50))
    subject.time.now += 6
    subject.gate.open()
    assert subject.answers(inbox, 2)
    assert isinstance(late.wait().error, DeadlineExceeded)


def test_a_later_deadline_counts_for_what_runs_already(subject: Subject) -> None:
    inbox, handle = subject.submit(3, deadline=subject.time.deadline(5))
    subject.gate.wait_for(1)
    assert handle.amend(priority=0, deadline=subject.time.deadline(50))
    subject.time.now += 6
    subject.gate.open()
    assert subject.answers(inbox, 3)


def test_too_late_says_where_the_time_went(subject: Subject) -> None:
    _, handle = subject.occupied()
    assert handle.too_late().message.startswith("the request's time is up: ")


def test_what_misses_inputs_counts_for_nothing_until_they_are_supplied(picky: Subject) -> None:
    inbox, handle = picky.submit(2, "x", "y", inputs=at_hand(x=1))
    assert inbox.wait_for_missing() == ("y",)
    assert (picky.engine.load().queued, picky.engine.load().running) == (0, 0)
    assert picky.works()
    handle.supply(at_hand(y=1))
    assert picky.answers(inbox, 4)


def test_what_misses_inputs_that_can_not_be_had_fails_with_the_reason_once(picky: Subject) -> None:
    inbox, handle = picky.submit(2, "x")
    inbox.wait_for_missing()
    handle.fail(StageFailed("nobody makes x"))
    handle.supply(at_hand(x=1))
    handle.cancel()
    assert str(inbox.wait().error) == "nobody makes x"
    assert inbox.num_endings == 1
    assert picky.engine.load().queued == 0


@pytest.mark.parametrize("how", ["cancel", "expire", "close", "supplied too late"])
def test_what_misses_inputs_may_still_end(picky: Subject, how: str) -> None:
    inbox, handle = picky.submit(2, "x", deadline=picky.time.deadline(5))
    inbox.wait_for_missing()
    if how == "close":
        picky.engine.close()
    elif how == "supplied too late":
        picky.time.now += 6
    else:
        getattr(handle, how)()
    handle.supply(at_hand(x=1))
    error = inbox.wait().error
    assert isinstance(error, {"cancel": Cancelled, "close": Unavailable}.get(how, DeadlineExceeded))
    assert inbox.num_endings == 1
    assert picky.engine.load().queued == 0


def test_supplying_what_nothing_misses_changes_nothing(picky: Subject) -> None:
    inbox, handle = picky.occupied(2)
    handle.supply(at_hand(x=7))
    picky.gate.open()
    assert picky.answers(inbox, 2)


def test_what_an_engine_holds_it_need_not_be_given(picky: Subject) -> None:
    picky.knows["x"] = 2
    assert list(picky.engine.residency()) == ["x"]
    assert not picky.engine.needs(picky.payload(1, number("x")))
    picky.gate.open()
    assert picky.answers(picky.submit(1, "x")[0], 3)


def test_closing_ends_everything_at_once_and_nothing_more_is_taken(subject: Subject) -> None:
    running, _ = subject.occupied(5)
    waiting, _ = subject.submit(2)
    closing = threading.Thread(target=subject.engine.close)
    closing.start()
    for inbox in (running, waiting):
        error = inbox.wait().error  # while the device is still busy
        assert isinstance(error, Unavailable)
        assert error.retry_after_s
    with pytest.raises(Unavailable):
        subject.submit(1)
    with pytest.raises(Unavailable):
        subject.engine.needs(subject.payload(1, number("x")))
    subject.gate.open()
    closing.join(PATIENCE_S)
    subject.engine.close()
    with pytest.raises(Unavailable):
        subject.engine.check()
    assert running.num_endings == waiting.num_endings == 1
    assert (subject.engine.load().queued, subject.engine.load().running) == (0, 0)
