"""Rows and steps on a device's own thread, from plain threads."""

import threading
from collections.abc import Callable, Sequence

import pytest

from stages.contract.errors import Cancelled, DeadlineExceeded, InvalidRequest, QueueFull, StageFailed, Unavailable
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.stage import Stepped
from stages.engine.delivery import Call, deliver_here
from tests.stages.bench import Bench, prepared, submit
from tests.stages.engine.counting import count
from tests.stages.fakes import PATIENCE_S, Count, Countdown, CountFrom, PreparedCount


def test_a_row_tells_its_events_in_order_and_is_finished_once(bench: Bench) -> None:
    stage = Countdown()
    inbox, _ = count(bench.iterative(stage), 3)
    assert inbox.wait().seen == [2, 1, 0]
    assert inbox.error is None
    receipt = inbox.receipt
    assert receipt is not None
    assert (receipt.steps, receipt.batch_size) == (3, 1.0)
    stage.finish_gate.wait_for(1)
    assert stage.finished == [CountFrom(3)]


def test_a_row_joins_between_two_steps_of_another(bench: Bench) -> None:
    stage = Countdown(gate=bench.gate())
    engine = bench.iterative(stage)
    first, _ = count(engine, 3)
    stage.gate.wait_for(1)
    second, _ = count(engine, 2)
    prepared(engine, 1)
    bench.time.now += 7
    stage.gate.open()
    assert second.wait().seen == [1, 0]
    assert first.wait().seen == [2, 1, 0]
    assert [len(rows) for rows in stage.steps] == [1, 2, 2]
    receipt = first.receipt
    assert receipt is not None
    assert receipt.batch_size == pytest.approx(5 / 3)
    assert (receipt.queue_s, receipt.run_s, receipt.device_s) == (0, 7, 7)
    metrics = engine.metrics()
    assert (metrics["steps_total"], metrics["batches_total"], metrics["batch_items_total"]) == (3, 3, 5)
    assert metrics["device_seconds_total"] == 7


def test_a_step_in_which_nothing_is_done_for_a_row_is_none_of_its_steps(bench: Bench) -> None:
    class Idle(Countdown):
        """Does nothing for rows of the key "idle"."""

        def _stepped(self, row: Count) -> Stepped:
            return super()._stepped(row)._replace(work=0.0 if row.payload.key == "idle" else None)

    engine = bench.iterative(Idle())
    idle, _ = count(engine, 1, "idle")
    receipt = idle.wait().receipt
    assert receipt is not None
    assert (receipt.steps, receipt.batch_size, receipt.device_s) == (0, 0.0, 0.0)
    assert engine.metrics()["steps_total"] == 0
    count(engine, 3)[0].wait()
    assert engine.metrics()["steps_total"] == 3


def test_what_finds_no_slot_waits_for_one(bench: Bench) -> None:
    stage = Countdown(slots=1, gate=bench.gate())
    engine = bench.iterative(stage)
    first, _ = count(engine, 2)
    stage.gate.wait_for(1)
    second, _ = count(engine, 1)
    prepared(engine, 1)
    stage.gate.let(1)
    stage.gate.wait_for(2)
    assert len(stage.started) == 1
    assert (engine.load().queued, engine.load().running) == (1, 1)
    stage.gate.open()
    first.wait()
    assert second.wait().seen == [0]


def test_a_payload_that_could_never_run_is_refused_before_it_queues(bench: Bench) -> None:
    engine = bench.iterative(Countdown())
    with pytest.raises(InvalidRequest, match="101 is over 100"):
        count(engine, 101)
    assert engine.metrics()["items_total"] == 0


def test_a_check_that_breaks_is_the_stages_fault(bench: Bench) -> None:
    class Broken(Countdown):
        def check(self, payload: CountFrom) -> None:
            raise KeyError("sampler")

    with pytest.raises(StageFailed, match="KeyError"):
        count(bench.iterative(Broken()), 1)


def test_a_cancelled_row_takes_part_in_no_further_step(bench: Bench) -> None:
    stage = Countdown(gate=bench.gate())
    engine = bench.busy_counting(stage)
    inbox, handle = count(engine, 50)
    other, _ = count(engine, 4)
    prepared(engine, 2)
    stage.gate.let(3)
    stage.gate.wait_for(4)  # the third step of both is under way
    handle.cancel()
    assert isinstance(inbox.wait().error, Cancelled)
    stage.gate.open()
    other.wait()
    with_it = [rows for rows in stage.steps if CountFrom(50) in rows]
    assert len(with_it) == 3
    assert stage.finished[1] == CountFrom(50)
    assert inbox.seen == [49, 48]


def test_what_is_cancelled_while_it_waits_is_never_started(bench: Bench) -> None:
    stage = Countdown(slots=1, gate=bench.gate())
    engine = bench.iterative(stage)
    first, _ = count(engine, 1)
    stage.gate.wait_for(1)
    waiting, handle = count(engine, 2)
    prepared(engine, 1)
    handle.cancel()
    assert isinstance(waiting.wait().error, Cancelled)
    stage.gate.open()
    first.wait()
    last, _ = count(engine, 3)
    last.wait()
    assert CountFrom(2) not in stage.started


def test_what_is_cancelled_while_it_starts_is_freed(bench: Bench) -> None:
    class Slow(Countdown):
        def start(self, payload: CountFrom, prepared: PreparedCount) -> Count:
            starting.pass_through()
            return super().start(payload, prepared)

    starting = bench.gate()
    stage = Slow()
    engine = bench.iterative(stage)
    inbox, handle = count(engine, 5)
    starting.wait_for(1)
    handle.cancel()
    assert isinstance(inbox.wait().error, Cancelled)
    starting.open()
    stage.finish_gate.wait_for(1)
    assert stage.finished == [CountFrom(5)]
    assert stage.steps == []


def test_a_row_past_its_deadline_is_freed_before_the_next_step(bench: Bench) -> None:
    stage = Countdown(gate=bench.gate())
    engine = bench.iterative(stage)
    bench.time.now += 1
    inbox, _ = count(engine, 50, deadline=bench.time.deadline(10))
    stage.gate.let(1)
    stage.gate.wait_for(2)
    bench.time.now += 12
    stage.gate.open()
    error = inbox.wait().error
    assert isinstance(error, DeadlineExceeded)
    assert "it waited 0.0 s in the queue of stage count, then ran 12.0 s there (2 steps)" in error.message
    assert len(stage.steps) == 2
    assert inbox.seen == [49, 48]
    stage.finish_gate.wait_for(1)
    assert engine.metrics()["expired_total"] == 1


def test_a_deadline_that_passes_while_waiting_for_a_slot_ends_the_waiting(bench: Bench) -> None:
    stage = Countdown(slots=1, gate=bench.gate())
    engine = bench.iterative(stage)
    count(engine, 50)
    stage.gate.wait_for(1)
    inbox, _ = count(engine, 1, deadline=bench.time.deadline(5))
    prepared(engine, 1)
    bench.time.now += 5
    stage.gate.let(1)
    error = inbox.wait().error
    assert isinstance(error, DeadlineExceeded)
    assert "and never ran" in error.message


def test_answers_do_not_wait_until_rows_are_freed(bench: Bench) -> None:
    stage = Countdown()
    stage.finish_gate = bench.gate()
    inbox, _ = count(bench.iterative(stage), 2)
    assert inbox.wait().seen == [1, 0]


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_row_that_leaves_while_another_is_being_freed_is_freed_too(bench: Bench, how: str) -> None:
    stage = Countdown(gate=bench.gate())
    stage.finish_gate = bench.gate()
    engine = bench.iterative(stage)
    first, _ = count(engine, 2)
    stage.gate.wait_for(1)
    second, handle = count(engine, 50)
    prepared(engine, 1)
    stage.gate.let(2)
    stage.finish_gate.wait_for(1)  # the first is done, and nobody else is left after what follows
    closing = threading.Thread(target=engine.close if how == "close" else handle.cancel)
    closing.start()
    assert isinstance(second.wait().error, Unavailable if how == "close" else Cancelled)
    stage.finish_gate.open()
    stage.finish_gate.wait_for(2)
    closing.join(PATIENCE_S)
    assert first.error is None
    assert stage.finished == [CountFrom(2), CountFrom(50)]


def test_a_row_may_change_its_key_from_step_to_step(bench: Bench) -> None:
    class Phased(Countdown):
        def batch_key(self, row: Count) -> str:
            return "first" if row.left == row.payload.start else "later"

        def step(self, rows: Sequence[Count]) -> Sequence[Stepped]:
            phases.append({self.batch_key(row) for row in rows})
            return super().step(rows)

    phases: list[set[str]] = []
    stage = Phased(gate=bench.gate())
    engine = bench.iterative(stage)
    first, _ = count(engine, 4)
    stage.gate.wait_for(1)
    second, _ = count(engine, 4)
    prepared(engine, 1)
    stage.gate.open()
    first.wait()
    second.wait()
    assert sorted(len(phase) for phase in phases) == [1] * len(phases)
    assert phases.count({"first"}) == 2
    assert any(len(rows) == 2 for rows in stage.steps)


def test_several_keys_take_turns_on_the_device(bench: Bench) -> None:
    stage = Countdown(gate=bench.gate())
    engine = bench.iterative(stage)
    first, _ = count(engine, 3, "a")
    stage.gate.wait_for(1)
    second, _ = count(engine, 3, "b")
    prepared(engine, 1)
    stage.gate.open()
    first.wait()
    second.wait()
    assert [rows[0].key for rows in stage.steps] == ["a", "b", "a", "b", "a", "b"]


def test_a_queue_of_rows_is_bounded(bench: Bench) -> None:
    stage = Countdown(slots=1, gate=bench.gate())
    engine = bench.iterative(stage, queue=QueueLimits(max_items=1))
    count(engine, 50)
    stage.gate.wait_for(1)
    count(engine, 1)
    with pytest.raises(QueueFull):
        count(engine, 1)


def test_closing_frees_every_row(bench: Bench) -> None:
    stage = Countdown(slots=2, gate=bench.gate())
    engine = bench.busy_counting(stage)
    inboxes = [count(engine, 50)[0] for _ in range(4)]
    prepared(engine, 4)
    stage.gate.let(1)
    stage.gate.wait_for(2)
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert all(isinstance(inbox.wait().error, Unavailable) for inbox in inboxes)
    stage.gate.open()
    closing.join(PATIENCE_S)
    assert stage.running == []
    assert len(stage.steps) == 2
    assert len(stage.finished) == len(stage.started) == 3


def test_a_whole_step_is_delivered_at_once(bench: Bench) -> None:
    deliveries: list[int] = []

    def deliver(calls: Sequence[Call]) -> None:
        deliveries.append(len(calls))
        deliver_here(calls)

    stage = Countdown(gate=bench.gate())
    engine = bench.iterative(stage, deliver=deliver)
    first, _ = count(engine, 4)
    stage.gate.wait_for(1)
    rest = [count(engine, 3)[0] for _ in range(3)]
    prepared(engine, 3)
    stage.gate.open()
    for inbox in (first, *rest):
        inbox.wait()
    assert deliveries == [1, 4, 4, 8]  # the last: four last events, four endings


def test_where_a_device_computes_by_itself_what_was_said_is_told_meanwhile(bench: Bench) -> None:
    class Launching(Countdown):
        """Notes what was heard before and after it has time."""

        def while_computing(self, do: Callable[[], None]) -> bool:
            self.do = do
            return True

        def step(self, rows: Sequence[Count]) -> Sequence[Stepped]:
            self.gate.pass_through()
            before = [*inbox.seen]
            self.do()
            heard.append((before, [*inbox.seen]))
            return super().step(rows)

    bench.overlaps = False
    heard: list[tuple[list[object], list[object]]] = []
    stage = Launching(gate=bench.gate())
    inbox, _ = count(bench.iterative(stage), 3)
    stage.gate.open()
    assert inbox.wait().seen == [2, 1, 0]
    assert heard == [([], []), ([], [2]), ([2], [2, 1])]


def test_a_row_makes_way_for_a_more_urgent_one_and_goes_on_where_it_stopped(bench: Bench) -> None:
    stage = Countdown(slots=1, gate=bench.gate())
    engine = bench.iterative(stage)
    patient, _ = count(engine, 4, priority=1)
    stage.gate.let(1)
    stage.gate.wait_for(2)
    urgent, _ = count(engine, 2, priority=0)
    prepared(engine, 1)
    bench.time.now += 3
    stage.gate.open()
    assert urgent.wait().seen == [1, 0]
    assert patient.wait().seen == [3, 2, 1, 0]
    assert [rows[0].start for rows in stage.steps] == [4, 4, 2, 2, 4, 4]
    assert engine.metrics()["preempted_total"] == 1
    receipt = patient.receipt
    assert receipt is not None
    assert (receipt.steps, receipt.queue_s) == (4, 0)


def test_a_short_deadline_takes_no_running_rows_place(bench: Bench) -> None:
    stage = Countdown(slots=1, gate=bench.gate())
    engine = bench.iterative(stage)
    patient, _ = count(engine, 3, deadline=bench.time.deadline(100))
    stage.gate.wait_for(1)
    hurried, _ = count(engine, 1, deadline=bench.time.deadline(5))
    prepared(engine, 1)
    bench.time.now += 4.9
    stage.gate.open()
    for inbox in (patient, hurried):
        assert inbox.wait().error is None
    assert [rows[0].start for rows in stage.steps] == [3, 3, 3, 1]
    assert engine.metrics()["preempted_total"] == 0


def test_no_more_rows_run_than_one_step_holds(bench: Bench) -> None:
    stage = Countdown(slots=4, gate=bench.gate())
    engine = bench.busy_counting(stage, batch=BatchLimits(max_items=2))
    inboxes = [count(engine, 2, key)[0] for key in "abc"]
    prepared(engine, 3)
    stage.gate.let(1)
    stage.gate.wait_for(2)
    assert (engine.load().queued, engine.load().running) == (1, 2)
    stage.gate.open()
    assert all(inbox.wait().seen == [1, 0] for inbox in inboxes)


def test_a_row_that_cannot_be_suspended_fails_alone(bench: Bench) -> None:
    stage = Countdown(slots=1, gate=bench.gate())
    engine = bench.iterative(stage)
    stubborn, _ = submit(engine, CountFrom(5, breaks_suspending=True), priority=1)
    stage.gate.wait_for(1)
    urgent, _ = count(engine, 1)
    prepared(engine, 1)
    stage.gate.open()
    assert urgent.wait().seen == [0]
    assert isinstance(stubborn.wait().error, StageFailed)


def test_a_suspended_row_can_be_cancelled(bench: Bench) -> None:
    stage = Countdown(slots=1, gate=bench.gate())
    engine = bench.iterative(stage)
    patient, handle = count(engine, 5, priority=1)
    stage.gate.wait_for(1)
    urgent, _ = count(engine, 2)
    prepared(engine, 1)
    stage.gate.let(2)
    stage.gate.wait_for(3)  # the urgent row's second step
    handle.cancel()
    assert isinstance(patient.wait().error, Cancelled)
    stage.gate.open()
    assert urgent.wait().seen == [1, 0]
    assert [rows[0].start for rows in stage.steps] == [5, 2, 2]
