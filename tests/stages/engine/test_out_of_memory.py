"""Devices on which too much does not fit: what fits alone does not fail, and what shares the device with it doesn't either."""

from collections.abc import Sequence
from typing import Any

from stages.contract.errors import Cancelled, OutOfMemory, TooLarge
from stages.contract.limits import BatchLimits
from stages.contract.stage import Stepped
from tests.stages.bench import Bench, prepared, submit
from tests.stages.fakes import Add, Adder, Count, Countdown, CountFrom, Inbox, PreparedCount, Sum, Total


class OutOfMemoryError(RuntimeError):
    """As torch's is: known by its name, since no engine imports torch."""


class CrampedCountdown(Countdown):
    """Steps of more than `fits` do not fit, nor do more than `holds` rows at once. A row weighs its `start` in tens."""

    def __init__(self, *, fits: float, holds: int = 100, **options: Any) -> None:
        super().__init__(slots=100, **options)
        self.fits, self.holds = fits, holds
        self.num_out_of_memory = 0

    def weigh(self, payload: CountFrom) -> float:
        return max(1.0, payload.start // 10)

    def cost(self, row: Count) -> float:
        return self.weigh(row.payload)

    def start(self, payload: CountFrom, prepared: PreparedCount) -> Count:
        if len(self.running) >= self.holds:
            raise OutOfMemory("no room to start")
        return super().start(payload, prepared)

    def step(self, rows: Sequence[Count]) -> Sequence[Stepped]:
        if sum(self.cost(row) for row in rows) > self.fits:
            self.num_out_of_memory += 1
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().step(rows)


def counted(inboxes: Sequence[Inbox], start: int) -> None:
    for inbox in inboxes:
        assert inbox.wait().error is None
        assert inbox.seen == list(range(start - 1, -1, -1))


# ---- rows ----


def test_with_room_for_4_rows_48_requests_succeed(bench: Bench) -> None:
    stage = CrampedCountdown(fits=4, gate=bench.gate())
    engine = bench.busy_counting(stage)
    inboxes = [submit(engine, CountFrom(3))[0] for _ in range(48)]
    prepared(engine, 48)
    stage.gate.open()
    counted(inboxes, 3)
    metrics = engine.metrics()
    assert 4 <= metrics["batch_bound_cost"] < 5
    assert metrics["out_of_memory_total"] == stage.num_out_of_memory > 0
    assert metrics["failed_total"] == 0
    assert max(len(rows) for rows in stage.steps) == 4


def test_rows_beyond_what_fits_go_on_later_from_where_they_were(bench: Bench) -> None:
    stage = CrampedCountdown(fits=16, gate=bench.gate())
    engine = bench.busy_counting(stage)
    inboxes = [submit(engine, CountFrom(5))[0] for _ in range(16)]
    prepared(engine, 16)
    stage.gate.let(1)
    stage.gate.wait_for(2)
    stage.fits = 5  # a neighbour has taken the rest
    stage.gate.open()
    counted(inboxes, 5)
    assert engine.metrics()["preempted_total"] == 0


def test_rows_suspended_for_lack_of_memory_keep_their_place_in_line(bench: Bench) -> None:
    stage = CrampedCountdown(fits=2, gate=bench.gate())
    engine = bench.busy_counting(stage, batch=BatchLimits(max_items=4))
    first = [submit(engine, CountFrom(2, key))[0] for key in "aaaa"]
    prepared(engine, 4)
    stage.gate.let(1)
    stage.gate.wait_for(2)  # two of them step, and two are suspended
    last, _ = submit(engine, CountFrom(1))
    prepared(engine, 3)
    stage.gate.open()
    for inbox in (*first, last):
        assert inbox.wait().error is None
    assert stage.finished[-1] == CountFrom(1)


def test_what_is_withdrawn_while_it_is_suspended_is_freed_once(bench: Bench) -> None:
    class Slow(CrampedCountdown):
        def suspend(self, row: Count) -> int:
            suspending.pass_through()
            return super().suspend(row)

    suspending = bench.gate()
    stage = Slow(fits=2, gate=bench.gate())
    engine = bench.busy_counting(stage)
    items = [submit(engine, CountFrom(3, key)) for key in "aaaa"]
    prepared(engine, 4)
    stage.gate.open()
    suspending.wait_for(1)
    for _, handle in items[2:]:
        handle.cancel()
    suspending.open()
    counted([inbox for inbox, _ in items[:2]], 3)
    assert all(isinstance(inbox.wait().error, Cancelled) for inbox, _ in items[2:])  # the bench counts what was freed


def test_a_row_that_does_not_fit_alone_is_too_large_and_others_go_on(bench: Bench) -> None:
    stage = CrampedCountdown(fits=4, gate=bench.gate())
    engine = bench.busy_counting(stage)
    small = [submit(engine, CountFrom(3))[0] for _ in range(3)]
    large, _ = submit(engine, CountFrom(50))
    prepared(engine, 4)
    stage.gate.open()
    counted(small, 3)
    error = large.wait().error
    assert isinstance(error, TooLarge)
    assert "work of 5" in error.message
    assert "needs more memory than its device cpu" in error.message
    assert engine.metrics()["failed_total"] == 1
    counted([submit(engine, CountFrom(3))[0] for _ in range(3)], 3)


def test_a_row_that_fits_only_with_the_device_to_itself_gets_it(bench: Bench) -> None:
    class Shared(CrampedCountdown):
        """Rows take memory while others step, too."""

        def step(self, rows: Sequence[Count]) -> Sequence[Stepped]:
            if sum(self.cost(row) for row in self.running) > self.fits:
                raise OutOfMemoryError("CUDA out of memory")
            return super().step(rows)

    stage = Shared(fits=5)
    engine = bench.iterative(stage)
    small = [submit(engine, CountFrom(3, key))[0] for key in "abcd"]
    large, _ = submit(engine, CountFrom(50))
    counted(small, 3)
    counted([large], 50)
    assert engine.metrics()["batch_bound_items"] == 16  # later ones need not pay for it


def test_a_stage_that_can_work_in_smaller_pieces_is_asked_before_a_row_is_refused(bench: Bench) -> None:
    class Shrinking(CrampedCountdown):
        pieces = 1

        def shrink(self) -> bool:
            self.pieces *= 2
            return self.pieces <= 4

        def cost(self, row: Count) -> float:
            return super().cost(row) / self.pieces

    engine = bench.iterative(Shrinking(fits=2))
    counted([submit(engine, CountFrom(50))[0]], 50)
    assert isinstance(submit(engine, CountFrom(90))[0].wait().error, TooLarge)


def test_what_cannot_start_beside_others_waits_until_one_has_left(bench: Bench) -> None:
    stage = CrampedCountdown(fits=100, holds=3, gate=bench.gate())
    engine = bench.busy_counting(stage)
    inboxes = [submit(engine, CountFrom(4))[0] for _ in range(12)]
    prepared(engine, 12)
    stage.gate.open()
    counted(inboxes, 4)
    metrics = engine.metrics()
    assert metrics["out_of_memory_total"] > 0
    assert metrics["failed_total"] == 0


def test_what_cannot_start_alone_is_too_large(bench: Bench) -> None:
    engine = bench.iterative(CrampedCountdown(fits=100, holds=0))
    assert isinstance(submit(engine, CountFrom(4))[0].wait().error, TooLarge)


def test_rows_of_no_cost_are_bounded_by_count(bench: Bench) -> None:
    class Weightless(CrampedCountdown):
        def weigh(self, payload: CountFrom) -> float:
            return 0.0

        def step(self, rows: Sequence[Count]) -> Sequence[Stepped]:
            if len(rows) > 4:
                raise OutOfMemoryError("CUDA out of memory")
            return super().step(rows)

    stage = Weightless(fits=100, gate=bench.gate())
    engine = bench.busy_counting(stage)
    inboxes = [submit(engine, CountFrom(3))[0] for _ in range(20)]
    prepared(engine, 20)
    stage.gate.open()
    counted(inboxes, 3)
    assert engine.metrics()["batch_bound_items"] == 4


# ---- rows start by cost ----


def test_no_more_rows_start_than_fit_a_step_of_their_key(bench: Bench) -> None:
    stage = CrampedCountdown(fits=100, gate=bench.gate())
    engine = bench.busy_counting(stage, batch=BatchLimits(max_items=8, max_cost=4))
    heavy = [submit(engine, CountFrom(20, "heavy"))[0] for _ in range(3)]
    prepared(engine, 3)
    light = [submit(engine, CountFrom(9, "light"))[0] for _ in range(2)]
    prepared(engine, 5)
    stage.gate.let(1)
    stage.gate.wait_for(2)
    assert (engine.load().running, engine.load().queued) == (4, 1)
    stage.gate.open()
    counted(heavy, 20)
    counted(light, 9)


def test_a_row_too_large_for_any_step_runs_alone(bench: Bench) -> None:
    stage = CrampedCountdown(fits=100)
    engine = bench.iterative(stage, batch=BatchLimits(max_items=8, max_cost=4))
    inboxes = [submit(engine, CountFrom(start))[0] for start in (20, 90, 20)]
    for inbox in inboxes:
        assert inbox.wait().error is None
    assert all(len(rows) == 1 for rows in stage.steps if CountFrom(90) in rows)


# ---- batches ----


class CrampedAdder(Adder):
    """Fits a cost of `fits` in one run."""

    def __init__(self, *, fits: float, **options: Any) -> None:
        super().__init__(**options)
        self.fits = fits
        self.tried: list[int] = []

    def run(self, batch: Sequence[Sum]) -> Sequence[Total]:
        self.tried.append(len(batch))
        if sum(item.cost for item in batch) > self.fits:
            raise MemoryError
        return super().run(batch)


def one_batch(bench: Bench, stage: CrampedAdder, costs: Sequence[int], **options: Any) -> tuple[Any, list[Inbox]]:
    """A batch of these, formed while the device was busy with another."""
    engine = bench.one_shot(stage, **options)
    first, _ = submit(engine, Add(1))
    stage.run_gate.wait_for(1)
    inboxes = [submit(engine, Add(cost))[0] for cost in costs]
    prepared(engine, len(costs))
    stage.run_gate.open()
    assert first.total == 1
    return engine, inboxes


def test_a_batch_that_does_not_fit_runs_in_smaller_ones_and_so_do_later_ones(bench: Bench) -> None:
    stage = CrampedAdder(fits=4, run_gate=bench.gate())
    engine, inboxes = one_batch(bench, stage, [1] * 16)
    assert [inbox.total for inbox in inboxes] == [1] * 16
    assert stage.tried == [1, 16, 8, 4, 4, 4, 4]
    assert engine.metrics()["out_of_memory_total"] == 2
    assert engine.metrics()["batch_bound_cost"] < 8
    assert engine.metrics()["failed_total"] == 0


def test_an_item_that_does_not_fit_alone_is_too_large_and_fails_alone(bench: Bench) -> None:
    engine, inboxes = one_batch(bench, CrampedAdder(fits=4, run_gate=bench.gate()), [2, 9, 2, 2])
    assert [inboxes[place].total for place in (0, 2, 3)] == [2, 2, 2]
    error = inboxes[1].wait().error
    assert isinstance(error, TooLarge)
    assert "work of 9" in error.message
    assert engine.metrics()["failed_total"] == 1


def test_an_item_is_tried_in_smaller_pieces_where_the_stage_can(bench: Bench) -> None:
    class Shrinking(CrampedAdder):
        def shrink(self) -> bool:
            self.fits, before = 10, self.fits
            return before < 10

    engine = bench.one_shot(Shrinking(fits=4))
    assert submit(engine, Add(9))[0].total == 9
    assert isinstance(submit(engine, Add(11))[0].wait().error, TooLarge)


def test_a_bad_item_in_a_batch_that_did_not_fit_still_fails_alone(bench: Bench) -> None:
    _, inboxes = one_batch(bench, CrampedAdder(fits=15, run_gate=bench.gate()), [2, 13, 2, 2])
    assert [inboxes[place].total for place in (0, 2, 3)] == [2, 2, 2]
    assert "bad luck" in str(inboxes[1].wait().error)


def test_who_runs_out_at_the_start_while_the_last_row_leaves_starts_once_it_has_left(bench: Bench) -> None:
    class Leaving(CrampedCountdown):
        """The row beside it goes away while it starts, and its memory is free only when it is finished."""

        def start(self, payload: CountFrom, prepared: PreparedCount) -> Count:
            if payload.start == 7 and self.running:
                leave()
                raise OutOfMemory("no room to start")
            return super().start(payload, prepared)

        def step(self, rows: Sequence[Count]) -> Sequence[Stepped]:
            stepping.pass_through()
            return super().step(rows)

    stepping = bench.gate()
    stage = Leaving(fits=16)
    engine = bench.iterative(stage)
    first, handle = submit(engine, CountFrom(100))
    leave = handle.cancel
    stepping.wait_for(1)
    second, _ = submit(engine, CountFrom(7))
    third, _ = submit(engine, CountFrom(3))
    prepared(engine, 2)
    stepping.open()
    assert isinstance(first.wait().error, Cancelled)
    counted([second], 7)
    counted([third], 3)
    assert engine.metrics()["failed_total"] == 0
