"""The turn of a device that steps rows: let go of who left, start who fits (or may have another's place), step, tell.

A row that was cancelled or is past its deadline is freed before the next step, so at most one more step runs for it. Decides
neither rows nor order: that is the scheduler.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Generic, TypeVar

from stages.cores import Seat
from stages.delivery import Deliver, Receiver, deliver_here
from stages.engine import Engine, Handle, Place
from stages.errors import StageFailed
from stages.limits import BatchLimits, QueueLimits
from stages.scheduler import IterativeScheduler, Share
from stages.stage import Item, IterativeStage, Stepped
from stages.work import Clock, Work, as_stage_error

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
    ) -> None:
        self._stage = stage
        self._rows: IterativeScheduler[Work] = IterativeScheduler(batch, queue, name=name)
        self._leaving: list[Work] = []  # settled, and their rows still to be freed
        super().__init__(Place(name, stage.device, replica, dtype), self._rows, deliver, clock, cores)
        self._thread.start()

    def submit(self, item: Item[P], receiver: Receiver) -> Handle:
        try:
            self._stage.check(item.payload)
        except Exception as error:
            raise as_stage_error(self.place.stage, error, item.id) from None
        with self._wake:
            work = self._accept(item, receiver, ready=True)
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
            num_running, has_room = len(self._rows.running()), self._rows.has_room
        if entry is None:
            return False
        work = entry.work
        try:
            if has_room and self._stage.can_start(work.item.payload):
                self._start(work)
            elif num_running:
                return self._make_room()
            else:  # waiting would be for ever
                raise StageFailed(f"stage {self.place.stage} has no room for this item even when nothing else runs")
        except Exception as error:
            failure = as_stage_error(self.place.stage, error, work.item.id)
            with self._lock:
                self._fail(work, failure)
                self._remove(work)
        return True

    def _make_room(self) -> bool:
        """Has a row make way for who starts next. False: none does."""
        with self._lock:
            entry = self._rows.preempt(self._now())
            if entry is None:
                return False
            work = entry.work
            row, work.state, work.has_row = work.state, None, False
            self._counters.preempted_total += 1
        try:
            suspended = self._stage.suspend(row)
            with self._lock:
                work.suspended = suspended
        except Exception as error:
            failure = as_stage_error(self.place.stage, error, work.item.id)
            with self._lock:
                self._fail(work, failure)
                self._remove(work)
        self._free(row)
        return True

    def _start(self, work: Work) -> None:
        began, payload, suspended = self._now(), work.item.payload, work.suspended
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
        stepped = self._stepped(rows, works)
        seconds = self._now() - began
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

    def _stepped(self, rows: Sequence[R], works: Sequence[Work]) -> Sequence[Stepped]:
        try:
            stepped = self._stage.step(rows)
            if len(stepped) == len(rows):
                return stepped
            raise StageFailed(f"stage {self.place.stage} answered for {len(stepped)} rows of {len(rows)}")
        except Exception as error:
            failure = as_stage_error(self.place.stage, error, *(work.item.id for work in works))
            return [Stepped(error=failure)] * len(rows)

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
