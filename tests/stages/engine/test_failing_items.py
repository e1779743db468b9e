"""An item, a batch or a receiver that fails takes nobody with it."""

from collections.abc import Sequence

import pytest

from stages.contract.errors import InvalidRequest, StageFailed
from stages.contract.item import Item
from stages.contract.recipe import NO_INPUTS
from stages.contract.result import Result
from tests.stages.bench import Bench, prepared
from tests.stages.engine.adding import add, busy
from tests.stages.fakes import Add, Adder, Divider, Inbox, Sum, Total


def test_a_bad_item_fails_alone(bench: Bench) -> None:
    engine, stage, _ = busy(bench)
    inboxes = [add(engine, a) for a in (2, 13, 4)]
    prepared(engine, 3)
    stage.run_gate.open()
    assert inboxes[0].total == 2
    assert inboxes[2].total == 4
    error = inboxes[1].wait().error
    assert isinstance(error, StageFailed)
    assert error.message == "stage adder failed on this item"
    assert error.detail == "RuntimeError: the device has bad luck"
    assert error.__traceback__ is None  # its frames would keep tensors alive
    assert [sorted(batch) for batch in stage.batches] == [[1], [2, 4, 13], [2], [13], [4]]
    receipt = inboxes[2].receipt
    assert receipt is not None
    assert (receipt.steps, receipt.batch_size) == (2, 2.0)  # a batch of three, then one alone
    assert engine.metrics()["failed_total"] == 1


def test_the_log_says_which_items_a_stage_failed_on(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    engine = bench.one_shot(Adder())
    inbox = Inbox()
    engine.submit(Item("mine-1:prompt", Add(13)), NO_INPUTS, inbox)
    assert isinstance(inbox.wait().error, StageFailed)
    assert "stage adder failed on mine-1:prompt" in caplog.text
    assert "the device has bad luck" in caplog.text


def test_an_error_of_ours_keeps_its_kind(bench: Bench) -> None:
    class Picky(Adder):
        def run(self, batch: Sequence[Sum]) -> Sequence[Total]:
            raise InvalidRequest("not today", param="day")

    error = add(bench.one_shot(Picky()), 1).wait().error
    assert isinstance(error, InvalidRequest)
    assert error.param == "day"


def test_a_stage_that_gives_too_few_results_fails_its_items(bench: Bench) -> None:
    class Stingy(Adder):
        def run(self, batch: Sequence[Sum]) -> Sequence[Total]:
            return super().run(batch)[1:]

    error = add(bench.one_shot(Stingy()), 1).wait().error
    assert isinstance(error, StageFailed)
    assert "0 results for 1 items" in error.message


def test_what_cannot_be_prepared_fails_alone_and_never_reaches_the_device(bench: Bench) -> None:
    engine, stage, first = busy(bench)
    good, bad = add(engine, 2), add(engine, 3, 13)
    assert isinstance(bad.wait().error, InvalidRequest)  # while the device is still busy
    stage.run_gate.open()
    assert good.total == 2
    assert first.total == 1
    assert stage.batches == [[1], [2]]


def test_an_impossible_cost_fails_alone(bench: Bench) -> None:
    class Endless(Adder):
        def cost(self, item: Sum) -> float:
            return float("inf") if item.total == 7 else 1.0

    engine = bench.one_shot(Endless())
    assert isinstance(add(engine, 7).wait().error, StageFailed)
    assert add(engine, 2).total == 2


class Exploding(Adder):
    """Fails on 13 with something that no stage should raise."""

    def run(self, batch: Sequence[Sum]) -> Sequence[Total]:
        if any(item.total == 13 for item in batch):
            raise SystemExit("nobody should")
        return super().run(batch)


def test_the_thread_survives_what_no_stage_should_raise(bench: Bench) -> None:
    engine = bench.one_shot(Exploding())
    assert isinstance(add(engine, 13).wait().error, StageFailed)
    assert add(engine, 2).total == 2
    engine.check()


def test_a_receiver_that_raises_harms_nobody_else(bench: Bench) -> None:
    class Rude(Inbox):
        def done(self, value: Result | None, receipt: object) -> None:
            raise RuntimeError("no")

    engine, stage, _ = busy(bench)
    engine.submit(Item("rude", Add(2)), NO_INPUTS, Rude())
    polite = add(engine, 3)
    prepared(engine, 2)
    stage.run_gate.open()
    assert polite.total == 3
    assert add(engine, 4).total == 4


def test_a_result_that_is_no_number_fails_its_item_alone_and_is_counted(bench: Bench) -> None:
    stage = Divider(run_gate=bench.gate())
    engine = bench.one_shot(stage)
    inboxes = [add(engine, 4)]
    stage.run_gate.wait_for(1)
    inboxes += [add(engine, 1, -1), add(engine, 2)]
    prepared(engine, 2)
    stage.run_gate.open()
    assert [inbox.wait().error for inbox in inboxes][::2] == [None, None]
    assert isinstance(inboxes[1].error, StageFailed)
    assert "NaN" in inboxes[1].error.message
    assert engine.metrics()["failed_total"] == 1
