"""Batches on a device's own thread, from plain threads."""

import asyncio
import math
import threading
from typing import Any

import pytest

from stages.contract.engine import Load
from stages.contract.errors import Cancelled, DeadlineExceeded, QueueFull, StageFailed, Unavailable
from stages.contract.item import Item
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.recipe import NO_INPUTS
from stages.contract.result import Result
from stages.contract.work import NO_WORK
from stages.engine.delivery import LoopDelivery
from tests.stages.bench import Bench, number, prepared, submit
from tests.stages.engine.adding import add, busy
from tests.stages.fakes import PATIENCE_S, Add, Adder, Inbox


def test_an_idle_device_starts_at_once(bench: Bench) -> None:
    stage = Adder()
    assert add(bench.one_shot(stage), 2, 3).total == 5
    assert stage.batches == [[5]]


def test_the_batch_stays_open_while_the_device_is_busy(bench: Bench) -> None:
    stage = Adder(run_gate=bench.gate())
    engine = bench.one_shot(stage, batch=BatchLimits(max_items=8))
    first = add(engine, 1)
    stage.run_gate.wait_for(1)
    later = []
    for size in range(2, 7):
        later.append(add(engine, size))
        prepared(engine, len(later))
    assert engine.load().running == 1
    stage.run_gate.open()
    assert [inbox.total for inbox in (first, *later)] == [1, 2, 3, 4, 5, 6]
    assert stage.batches == [[1], [2, 3, 4, 5, 6]]


def test_the_margin_is_learned_from_items_that_waited_and_were_not_in_the_background(bench: Bench) -> None:
    stage = Adder(run_gate=bench.gate())
    engine = bench.one_shot(stage, batch=BatchLimits(max_items=1))

    def after(seconds: float, *priorities: int) -> float:
        """Each of them takes so long, one after the other."""
        num_before, inboxes = len(stage.batches), []
        for num_waiting, priority in enumerate(priorities):
            inboxes.append(add(engine, 1, priority=priority))
            if num_waiting:
                prepared(engine, num_waiting)
            else:
                stage.run_gate.wait_for(num_before + 1)
        for num_done, inbox in enumerate(inboxes):
            stage.run_gate.wait_for(num_before + num_done + 1)
            bench.time.now += seconds
            stage.run_gate.let(1)
            assert inbox.total == 1
        return engine.metrics()["finish_margin"]

    first = after(1.0, 0)
    assert after(10.0, 0) == first
    assert after(40.0, 0, 1) == first
    assert after(400.0, 0, 0) > first


@pytest.mark.parametrize("is_late", [True, False])
def test_the_margin_is_learned_from_what_waited_in_vain_too(bench: Bench, is_late: bool) -> None:
    """Until its time was up, or its caller's, whose time is up sooner by what the way took. Or a line in which all come too late would be
    expected to end in time."""
    stage = Adder(run_gate=bench.gate())
    engine = bench.one_shot(stage, batch=BatchLimits(max_items=1))

    def after(waits_s: float) -> float:
        """One that was expected to take about 2 s has waited so long, and its time is up."""
        num_before = len(stage.batches)
        runs = add(engine, 1)
        stage.run_gate.wait_for(num_before + 1)
        inbox, handle = submit(engine, Add(1), deadline=bench.time.deadline(waits_s + (0 if is_late else 1)))
        prepared(engine, 1)
        bench.time.now += waits_s
        handle.expire() if is_late else handle.cancel()
        assert isinstance(inbox.wait().error, DeadlineExceeded if is_late else Cancelled)
        bench.time.now += max(0.0, 1.0 - waits_s)
        stage.run_gate.let(1)
        runs.wait()
        return engine.metrics()["finish_margin"]

    runs = add(engine, 1)
    stage.run_gate.wait_for(1)
    bench.time.now += 1.0
    stage.run_gate.let(1)
    runs.wait()
    first = engine.metrics()["finish_margin"]
    assert after(0.5) == first  # it may have been right
    assert after(30.0) > first


def test_whoever_gets_an_answer_finds_its_own_item_no_longer_in_hand(bench: Bench) -> None:
    """Or its next one would be sent to another replica."""

    class Asking(Inbox):
        def done(self, value: Result | None, receipt: Any) -> None:
            loads.append(engine.load())
            super().done(value, receipt)

    loads: list[Load] = []
    engine, asking = bench.one_shot(Adder()), Asking()
    engine.submit(Item("asks", Add(2)), NO_INPUTS, asking)
    assert asking.wait().total == 2
    assert [(load.num_items, load.running, load.outstanding) for load in loads] == [(0, 0, NO_WORK)]


def test_a_receipt_says_where_the_time_went(bench: Bench) -> None:
    stage = Adder(run_gate=bench.gate())
    engine = bench.one_shot(stage, replica="r7")
    first = add(engine, 1)
    stage.run_gate.wait_for(1)
    two = [add(engine, 2), add(engine, 3)]
    prepared(engine, 2)
    bench.time.now += 4
    stage.run_gate.let(1)
    first.wait()
    stage.run_gate.wait_for(2)
    bench.time.now += 6
    stage.run_gate.open()
    receipt = two[1].wait().receipt
    assert receipt is not None
    assert (receipt.stage, receipt.replica, receipt.device, receipt.cache) == ("adder", "r7", "cpu", "off")
    assert (receipt.queue_s, receipt.run_s, receipt.device_s) == (4, 6, 3)
    assert (receipt.batch_size, receipt.steps) == (2, 1)
    assert engine.metrics() == {
        "queued": 0,
        "queued_tenants": 0,
        "preparing": 0,
        "running": 0,
        "items_total": 3,
        "batches_total": 2,
        "batch_items_total": 3,
        "steps_total": 0,
        "device_seconds_total": 10,
        "cancelled_total": 0,
        "failed_total": 0,
        "expired_total": 0,
        "rejected_total": 0,
        "preempted_total": 0,
        "continued_total": 0,
        "preempted_for_others_total": 0,
        "let_in_beyond_total": 0,
        "out_of_memory_total": 0,
        "missing_inputs_total": 0,
        "batch_bound_items": 16,
        "batch_bound_cost": math.inf,
        "outstanding_amount": 0,
        "outstanding_steps": 0,
        "outstanding_seconds": 0,
        **engine._in_flight.scheduler.speed.metrics(),
    }


def test_preparing_goes_on_while_the_device_is_busy(bench: Bench) -> None:
    stage = Adder(run_gate=bench.gate(), prepare_gate=bench.gate())
    engine = bench.one_shot(stage)
    stage.prepare_gate.let(1)
    add(engine, 1)
    stage.run_gate.wait_for(1)
    add(engine, 2)
    stage.prepare_gate.wait_for(2)
    assert engine.load().queued == 1
    stage.prepare_gate.let(1)
    prepared(engine, 1)
    assert stage.batches == []


def test_a_full_queue_refuses_with_the_time_to_come_back(bench: Bench) -> None:
    engine, stage, first = busy(bench, queue=QueueLimits(max_items=2))
    bench.time.now += 30
    stage.run_gate.let(1)
    assert first.total == 1
    second = add(engine, 1)
    stage.run_gate.wait_for(2)
    waiting = [add(engine, 2), add(engine, 3)]
    prepared(engine, 2)
    with pytest.raises(QueueFull, match=r"stage adder is full: 2 items wait, and queue\.max_items is 2") as refused:
        add(engine, 4)
    assert refused.value.retry_after_s == pytest.approx(30 * 5 / 2)  # 30 s for a work of 1; 5 wait; half of it
    stage.run_gate.open()
    assert [inbox.total for inbox in (second, *waiting)] == [1, 2, 3]
    assert engine.metrics()["rejected_total"] == 1


def test_what_proves_too_costly_for_the_queue_once_prepared_is_refused(bench: Bench) -> None:
    class Sanguine(Adder):
        def weigh(self, payload: Add) -> float:
            return 1.0

    stage = Sanguine(run_gate=bench.gate())
    engine = bench.one_shot(stage, queue=QueueLimits(max_cost=10))
    add(engine, 1)
    stage.run_gate.wait_for(1)
    add(engine, 6)
    prepared(engine, 1)
    assert isinstance(add(engine, 5).wait().error, QueueFull)
    assert engine.metrics()["rejected_total"] == 1


def test_what_is_too_costly_for_the_queue_is_refused_before_it_is_prepared(bench: Bench) -> None:
    engine, stage, _ = busy(bench, queue=QueueLimits(max_cost=10))
    stage.prepare_gate = bench.gate()
    add(engine, 6)
    with pytest.raises(QueueFull, match="work of 6 waits, this would add 5"):
        add(engine, 5)
    assert engine.metrics()["rejected_total"] == 1


def test_what_is_refused_before_its_inputs_are_made_counts_as_rejected(bench: Bench) -> None:
    engine, _, _ = busy(bench, queue=QueueLimits(max_cost=10))
    add(engine, 6)
    with pytest.raises(QueueFull, match="work of 6 waits, this would add 5"):
        engine.needs(Add(5, plus=(number("x"),)))
    assert engine.metrics()["rejected_total"] == 1
    assert [recipe.name for recipe in engine.needs(Add(4, plus=(number("x"),)))] == ["x"]


@pytest.mark.parametrize("moment", ["preparing", "queued", "running"])
def test_cancelling_answers_at_once_at_any_moment(bench: Bench, moment: str) -> None:
    stage = Adder(run_gate=bench.gate(), prepare_gate=bench.gate())
    engine = bench.one_shot(stage)
    stage.prepare_gate.let(1)
    inbox, handle = submit(engine, Add(1))
    stage.run_gate.wait_for(1)
    if moment != "running":
        if moment == "queued":
            stage.prepare_gate.let(1)
        inbox, handle = submit(engine, Add(2))
        stage.prepare_gate.wait_for(2)
        if moment == "queued":
            prepared(engine, 1)
    handle.cancel()
    assert isinstance(inbox.wait().error, Cancelled)
    handle.cancel()
    stage.prepare_gate.open()
    stage.run_gate.open()
    assert add(engine, 9).total == 9
    assert stage.batches == [[1], [9]]
    assert inbox.num_endings == 1
    assert engine.metrics()["cancelled_total"] == 1


def test_a_deadline_that_passes_in_the_queue_is_told_with_where_the_time_went(bench: Bench) -> None:
    engine, stage, _ = busy(bench)
    late = add(engine, 2, deadline=bench.time.deadline(5))
    soon = add(engine, 3, deadline=bench.time.deadline(50))
    prepared(engine, 2)
    bench.time.now += 5
    stage.run_gate.open()
    assert soon.total == 3
    error = late.wait().error
    assert isinstance(error, DeadlineExceeded)
    assert "it waited 5.0 s in the queue of stage adder and never ran" in error.message
    assert stage.batches == [[1], [3]]
    assert engine.metrics()["expired_total"] == 1


def test_what_comes_too_late_is_refused(bench: Bench) -> None:
    engine = bench.one_shot(Adder())
    with pytest.raises(DeadlineExceeded):
        add(engine, 1, deadline=bench.time.deadline(0))
    assert engine.metrics()["expired_total"] == 1


def test_withdrawing_past_the_deadline_counts_as_expired(bench: Bench) -> None:
    engine, _, _ = busy(bench)
    inbox, handle = submit(engine, Add(2), deadline=bench.time.deadline(5))
    bench.time.now += 6
    handle.cancel()
    assert isinstance(inbox.wait().error, DeadlineExceeded)
    other, handle = submit(engine, Add(2), deadline=bench.time.deadline(5))
    handle.expire()  # a timer may be early by a little
    assert isinstance(other.wait().error, DeadlineExceeded)
    assert (engine.metrics()["expired_total"], engine.metrics()["cancelled_total"]) == (2, 0)


def test_items_that_expire_while_a_failed_batch_is_retried_do_not_run(bench: Bench) -> None:
    engine, stage, _ = busy(bench)
    bad = add(engine, 13)
    late = add(engine, 2, deadline=bench.time.deadline(5))
    prepared(engine, 2)
    stage.run_gate.let(1)
    stage.run_gate.wait_for(2)
    bench.time.now += 6
    stage.run_gate.open()
    assert isinstance(late.wait().error, DeadlineExceeded)
    assert isinstance(bad.wait().error, StageFailed)
    assert [2] not in stage.batches


def test_a_later_deadline_counts_once_someone_else_wants_the_result(bench: Bench) -> None:
    engine, stage, _ = busy(bench)
    inbox, handle = submit(engine, Add(2), deadline=bench.time.deadline(5), priority=1)
    urgent = add(engine, 3)
    prepared(engine, 2)
    assert handle.amend(priority=-1, deadline=bench.time.deadline(50))
    bench.time.now += 6
    stage.run_gate.open()
    assert inbox.total == 2
    assert urgent.total == 3
    assert stage.batches == [[1], [2, 3]]


def test_amending_what_has_failed_says_so(bench: Bench) -> None:
    engine, _, _ = busy(bench)
    _, handle = submit(engine, Add(2))
    handle.cancel()
    assert not handle.amend(priority=0, deadline=float("inf"))


def test_closing_ends_everything_with_unavailable_at_once(bench: Bench) -> None:
    stage = Adder(run_gate=bench.gate(), prepare_gate=bench.gate())
    engine = bench.one_shot(stage)
    stage.prepare_gate.let(2)
    running = add(engine, 1)
    stage.run_gate.wait_for(1)
    queued = add(engine, 2)
    prepared(engine, 1)
    preparing = add(engine, 3)
    closing = threading.Thread(target=engine.close)
    closing.start()
    for inbox in (running, queued, preparing):
        error = inbox.wait().error
        assert isinstance(error, Unavailable)
        assert error.retry_after_s
    with pytest.raises(Unavailable):
        add(engine, 4)
    stage.prepare_gate.open()
    stage.run_gate.open()
    closing.join(PATIENCE_S)
    assert stage.batches == [[1]]
    assert running.num_endings == 1


def test_submitting_from_many_threads_loses_nothing(bench: Bench) -> None:
    engine = bench.one_shot(Adder(), queue=QueueLimits(1000))
    inboxes: list[Inbox] = []

    def submit_some(start: int) -> None:
        inboxes.extend(add(engine, 0, start + i) for i in range(50) if start + i != 13)

    threads = [threading.Thread(target=submit_some, args=(start,)) for start in range(0, 400, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(inbox.total for inbox in inboxes) == [n for n in range(400) if n != 13]
    assert engine.metrics()["batch_items_total"] == 399


async def test_answers_come_on_the_loops_own_thread(bench: Bench) -> None:
    class Where(Inbox):
        def done(self, value: Result | None, receipt: Any) -> None:
            threads.append(threading.current_thread())
            arrived.set()

    threads: list[threading.Thread] = []
    arrived = asyncio.Event()
    delivery = LoopDelivery()
    engine = bench.one_shot(Adder(), deliver=delivery)
    delivery.bind(asyncio.get_running_loop())
    engine.submit(Item("1", Add(1, 1)), NO_INPUTS, Where())
    await arrived.wait()
    assert threads == [threading.current_thread()]


def test_answers_for_a_loop_that_is_gone_are_dropped(bench: Bench) -> None:
    loop = asyncio.new_event_loop()
    delivery = LoopDelivery()
    delivery.bind(loop)
    loop.close()
    stage = Adder()
    engine = bench.one_shot(stage, deliver=delivery)
    add(engine, 1)
    stage.run_gate.wait_for(1)
    add(engine, 2)
    stage.run_gate.wait_for(2)
    engine.check()
