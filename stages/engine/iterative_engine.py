"""The turn of a device that steps rows: let go of who left, start who fits (or may have another's place), step, tell.

A row that was cancelled or is past its deadline is freed before the next step, so at most one more step runs for it. Decides
neither rows nor order: that is the scheduler.

Where memory runs out, nothing fails that fits alone. In a step: the scheduler's bound is lowered, rows beyond it are suspended,
to be resumed in their turn, and the others go on. At a start: it waits until a row has left. A row that finds no room with the
device to itself is `TooLarge`.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Generic, TypeVar

from stages.contract.errors import OutOfMemory, StageFailed, TriptychError
from stages.contract.faults import Fault, fault_of
from stages.contract.item import Item
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.stage import IterativeStage, Stepped
from stages.device.cores import Seat
from stages.engine.delivery import Deliver, Receiver, deliver_here
from stages.engine.engine import Engine, Handle, Place
from stages.engine.health import MAX_STEP_S
from stages.engine.scheduler import Batch, Entry, IterativeScheduler, Share
from stages.engine.work import Clock, Work, as_stage_error

P = TypeVar("P")
R = TypeVar("R")


class IterativeEngine(Engine[P], Generic[P, R]):
    """Runs one `IterativeStage`. Events are delivered with one call of `deliver` for a step."""

    def __init__(
        self,
        stage: IterativeStage[P, R],
        *,
        name: str,
        replica: str = "local",
        dtype: str = "float32",
        batch: BatchLimits = BatchLimits(),
        queue: QueueLimits = QueueLimits(),
        deliver: Deliver = deliver_here,
        clock: Clock = Clock(),
        cores: Seat | None = None,
        max_step_s: float = MAX_STEP_S,
    ) -> None:
        self._stage = stage
        self._rows: IterativeScheduler[Work] = IterativeScheduler(batch, queue, name=name)
        self._leaving: list[Work] = []  # settled, and their rows still to be freed
        self._good: P | None = None  # what has been stepped well
        super().__init__(Place(name, stage.device, replica, dtype), self._rows, deliver, clock, cores, max_step_s)
        self._thread.start()

    def submit(self, item: Item[P], receiver: Receiver) -> Handle:
        try:
            self._stage.check(item.payload)
            share = self._stage.weigh(item.payload)
        except Exception as error:
            raise as_stage_error(self.place.stage, error, item.id) from None
        with self._wake:
            work = self._accept(item, receiver, share)
            self._wake.notify()
        return Handle(self, work)

    def _remove(self, work: Work) -> None:
        super()._remove(work)
        if work.has_row:
            work.has_row = False
            self._leaving.append(work)

    # ---- the engine's thread ----

    def _has_work(self) -> bool:
        return bool(self._leaving) or self._rows.has_work()

    def _turn(self) -> None:
        self._let_go()
        while self._start_next():
            pass
        self._flush()
        self._step()
        self._flush()  # before rows are freed: what was said shouldn't wait for that
        self._let_go()

    def _end(self) -> None:
        self._let_go()

    def _let_go(self) -> None:
        with self._lock:
            expired = [entry.work for entry in self._rows.expire(self._now())]
            self._expire(expired)
            for work in expired:
                self._remove(work)
            leaving, self._leaving = self._leaving, []
        for work in leaving:
            self._finish(work)

    def _finish(self, work: Work) -> None:
        row, work.state = work.state, None
        self._free(row)

    def _free(self, row: R) -> None:
        try:
            self._stage.finish(row)
        except Exception as error:  # forbidden by the contract; logged, since nobody waits for it any more
            as_stage_error(self.place.stage, error)

    def _start_next(self) -> bool:
        """Starts whoever is next. False: nobody waits, or there is no room now."""
        with self._lock:
            entry = self._rows.next_to_start(self._now())
            num_running, leaving = len(self._rows.running()), bool(self._leaving)
        if leaving:  # what they hold is free once they are
            self._let_go()
            return True
        if entry is None:
            return self._make_room()
        failure: TriptychError
        try:
            if self._stage.can_start(entry.work.item.payload):
                self._start(entry.work)
                return True
            if num_running or self._is_leaving():
                return self._make_room()
            # waiting would be for ever
            failure = StageFailed(f"stage {self.place.stage} has no room for this item even when nothing else runs")
        except Exception as error:
            failure = as_stage_error(self.place.stage, error, entry.work.item.id)
        self._not_started(entry, failure, num_running)
        return True

    def _is_leaving(self) -> bool:
        with self._lock:
            return bool(self._leaving)

    def _not_started(self, entry: Entry[Work], failure: TriptychError, num_running: int) -> None:
        work = entry.work
        if isinstance(failure, OutOfMemory) and not work.has_row:
            self._ran_out()
            with self._lock:
                waits = num_running > 0 or bool(self._leaving)
                if waits:
                    self._rows.hold()
            if waits:
                return
            failure = self._too_large(entry.cost)
        self._judge([work], failure)
        self._fail_row(work, failure)

    def _make_room(self) -> bool:
        """Has a row make way for the first in line. False: none does."""
        with self._lock:
            entry = self._rows.preempt(self._now())
            if entry is None:
                return False
            self._counters.preempted_total += 1
            row = self._row_taken_from(entry.work)
        self._suspend(entry.work, row)
        return True

    def _row_taken_from(self, work: Work) -> R:
        """Under the lock under which its entry began to wait again: whoever withdraws the item finds no row to free."""
        row: R = work.state
        work.state, work.has_row = None, False
        return row

    def _suspend(self, work: Work, row: R) -> None:
        try:
            suspended = self._stage.suspend(row)
            with self._lock:
                work.suspended = suspended
        except Exception as error:
            self._fail_row(work, as_stage_error(self.place.stage, error, work.item.id))
        self._free(row)

    def _fail_row(self, work: Work, failure: TriptychError) -> None:
        with self._lock:
            self._fail(work, failure)
            self._remove(work)

    def _start(self, work: Work) -> None:
        began, payload, suspended = self._now(), work.item.payload, work.suspended
        self._health.begin(began)
        row = self._stage.start(payload) if suspended is None else self._stage.resume(payload, suspended)
        with self._lock:
            work.state, work.has_row, work.suspended = row, True, None
            work.started_at = began if work.started_at is None else work.started_at
        share = Share(self._stage.batch_key(row), self._stage.cost(row))
        with self._lock:
            seconds = self._now() - began
            self._counters.device_seconds_total += seconds
            work.device_s += seconds
            if not self._rows.start(work.id, share):  # it was withdrawn meanwhile
                self._remove(work)

    def _step(self) -> None:
        with self._lock:
            batch = self._rows.next_batch(self._now())
            for entry in batch.expired:
                self._expire([entry.work])
                self._remove(entry.work)
        works = [entry.work for entry in batch.entries]
        if not works:
            return
        rows: list[R] = [work.state for work in works]
        began = self._now()
        self._health.begin(began)
        stepped = self._stepped(rows, works)
        seconds = self._now() - began
        if isinstance(stepped, OutOfMemory):
            self._did_not_fit(batch, seconds)
            return
        self._judge_step(batch, works, stepped)
        shares = {work.id: self._share(row) for work, row, one in zip(works, rows, stepped, strict=True) if _goes_on(one)}
        with self._lock:
            self._count(works, began, seconds)
            for work, one in zip(works, stepped, strict=True):
                share = shares.get(work.id)
                self._tell(work, one if not isinstance(share, Exception) else replace(one, error=share))
            going_on = {key: share for key, share in shares.items() if isinstance(share, Share)}
            done = {work.id for work in works if work.settled}
            self._rows.complete([work.id for work in works], seconds, done=done, shares=going_on)
            for work in works:
                if work.settled:
                    self._remove(work)

    def _stepped(self, rows: Sequence[R], works: Sequence[Work]) -> Sequence[Stepped] | OutOfMemory:
        try:
            stepped = self._stage.step(rows)
            if len(stepped) == len(rows):
                return [self._translated(one, work) for one, work in zip(stepped, works, strict=True)]
            raise StageFailed(f"stage {self.place.stage} answered for {len(stepped)} rows of {len(rows)}")
        except Exception as error:
            failure = as_stage_error(self.place.stage, error, *(work.item.id for work in works))
        return failure if isinstance(failure, OutOfMemory) else [Stepped(error=failure)] * len(rows)

    def _translated(self, one: Stepped, work: Work) -> Stepped:
        return one if one.error is None else replace(one, error=as_stage_error(self.place.stage, one.error, work.item.id))

    def _did_not_fit(self, batch: Batch[Work], seconds: float) -> None:
        """No row has changed: fewer of them go on."""
        self._ran_out()
        works = [entry.work for entry in batch.entries]
        with self._lock:
            self._counters.device_seconds_total += seconds
            leaving = bool(self._leaving)
            is_alone = len(works) == 1 and len(self._rows.running()) <= 1 and not leaving
        shares: dict[str, Share] = {}
        if len(works) == 1 and not leaving and self._shrunk(self._stage):
            share = self._share(works[0].state)
            shares = {works[0].id: share} if isinstance(share, Share) else {}
        elif is_alone:
            self._fail_row(works[0], self._too_large(batch.cost))
        with self._lock:
            if len(works) > 1:
                self._rows.bound.ran_out(len(works), batch.cost)
            elif not is_alone and not shares:
                self._rows.isolate(works[0].id)
            self._rows.complete([work.id for work in works], seconds, done=(), shares=shares)
        self._suspend_excess()

    def _suspend_excess(self) -> None:
        while True:
            with self._lock:
                entry = self._rows.take_excess()
                if entry is None:
                    return
                row = self._row_taken_from(entry.work)
            self._suspend(entry.work, row)

    def _judge_step(self, batch: Batch[Work], works: Sequence[Work], stepped: Sequence[Stepped]) -> None:
        errors = [one.error for one in stepped if isinstance(one.error, TriptychError)]
        lost = next((error for error in errors if fault_of(error) is Fault.DEVICE), None)
        if lost is not None or len(errors) == len(stepped):
            self._judge(works, lost or errors[0])
        else:
            self._went_well(batch.cost)
            self._good = next(work.item.payload for work, one in zip(works, stepped, strict=True) if one.error is None)

    def _still_works(self) -> bool:
        if self._good is None:
            return False
        try:
            if not self._stage.can_start(self._good):
                return True  # its rows are busy: what they do will tell
            self._health.begin(self._now())
            row = self._stage.start(self._good)
            try:
                return self._stage.step([row])[0].error is None
            finally:
                self._free(row)
        except Exception as error:
            return fault_of(error) is Fault.OUT_OF_MEMORY

    def _share(self, row: R) -> Share | Exception:
        try:
            return Share(self._stage.batch_key(row), self._stage.cost(row))
        except Exception as error:
            return error

    def _tell(self, work: Work, one: Stepped) -> None:
        if work.settled:
            return
        if one.events:
            self._outbox.append(partial(work.receiver.events, one.events))
        if one.error is not None:
            self._fail(work, as_stage_error(self.place.stage, one.error, work.item.id))
        elif one.done:
            self._settle(work, {})

    def _count(self, works: Sequence[Work], began: float, seconds: float) -> None:
        self._counters.steps_total += 1
        self._counters.batches_total += 1
        self._counters.batch_items_total += len(works)
        self._counters.device_seconds_total += seconds
        for work in works:
            work.count_run(began, seconds, len(works))


def _goes_on(one: Stepped) -> bool:
    return not one.done and one.error is None
