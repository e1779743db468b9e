"""The turn of a device that steps rows: let go of who left, start who fits, step, deliver. Items are prepared before, on a pool's
threads (`base.py`).

A row that was cancelled or is past its deadline is freed before the next step, so at most one more step runs for it. Decides
neither rows nor order (`scheduler.py`), nor what becomes of rows that fail or don't fit (`iterative_faults.py`).
"""

import math
from collections.abc import Sequence
from typing import Any, Generic, TypeVar, Unpack

from stages.contract.errors import OutOfMemory, StageFailed, TriptychError
from stages.contract.faults import Fault, fault_of
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.pages import Paged, Paging
from stages.contract.recipe import Inputs, InputsMissing, Payload, Recipe
from stages.contract.stage import IterativeStage, Overlapping, Share, StepBounded, Stepped
from stages.engine.base import BaseEngine, EngineOptions
from stages.engine.iterative_faults import RowFaults
from stages.engine.paging import EnginePaging
from stages.engine.rows import Rows
from stages.engine.scheduling.learned_speed import LearnedSpeed
from stages.engine.scheduling.scheduler import Batch, IterativeScheduler
from stages.engine.work import Work, as_stage_error

P = TypeVar("P", bound=Payload)
Q = TypeVar("Q")
R = TypeVar("R")

QUIET_AFTER_S = 0.5
"""Where nothing was stepped for so long the load has probably ended, and this is no gap between two items: pages that are handed over
only where nothing else is to be done would take the processors, and Redis, from whoever comes right after."""

REST_PER_EXPORT = 100
"""In gaps between items some leave, too, or under a light load that never rests none would: the next waits this many times as long as one
took."""


class IterativeEngine(BaseEngine[P, Q], Generic[P, Q, R]):
    """Runs one `IterativeStage`. Events are delivered with one call of `deliver` for a step; where the stage is `Overlapping`, while the
    device computes the next one: whoever is told wants the interpreter, which is needed to get that step onto the device."""

    def __init__(
        self,
        stage: IterativeStage[P, Q, R],
        *,
        name: str,
        batch: BatchLimits = BatchLimits(),
        queue: QueueLimits = QueueLimits(),
        quiet_after_s: float = QUIET_AFTER_S,
        **options: Unpack[EngineOptions],
    ) -> None:
        self._stage, self._quiet_after_s = stage, quiet_after_s
        self._good: tuple[P, Q] | None = None  # what has been stepped well
        self._stepped_at = self._next_in_gap_at = -math.inf  # when the last step ended; pages may leave in a gap
        most = stage.max_step_amount if isinstance(stage, StepBounded) else math.inf
        speed = LearnedSpeed(max_amount=most)
        self._scheduler: IterativeScheduler[Work] = IterativeScheduler(batch, queue, name=name, speed=speed)
        super().__init__(stage, self._scheduler, name=name, **options)
        self._rows = Rows(stage, self._in_flight, self._scheduler, self._faults)
        self._row_faults = RowFaults(self._rows, self._in_flight, self._scheduler, self._faults)
        self._paging = EnginePaging(stage, name, speed, self._refuse_now, self._wake) if isinstance(stage, Paged) else None
        self._overlaps = isinstance(stage, Overlapping) and stage.while_computing(self._in_flight.flush)
        self._thread.start()

    @property
    def result_type(self) -> None:
        return None

    @property
    def paging(self) -> Paging[P] | None:
        return self._paging

    def metrics(self) -> dict[str, float]:
        if self._paging is None:
            return super().metrics()
        return {**super().metrics(), "page_failures_total": float(self._paging.num_failures)}

    def _needs_of(self, payload: P, inputs: Inputs) -> Sequence[Recipe[Any]]:
        return self._stage.needs(payload, inputs)

    def _share_of(self, prepared: Q) -> Share:
        return self._stage.share(prepared)

    # ---- the engine's thread ----

    def _turn(self) -> None:
        """Schedule, step, deliver. Who starts was prepared on a pool's thread."""
        self._rows.let_go()  # who was cancelled, or is past its deadline
        while self._start_next():  # who is next and fits
            pass
        batch = self._schedule()
        if batch.entries:
            began = self._in_flight.now()
            self._share.begin(began)
            stepped = self._step([entry.work for entry in batch.entries], began)
            self._stepped_at = self._in_flight.now()
            device_s = self._share.end(self._stepped_at)
            if isinstance(stepped, OutOfMemory):
                self._row_faults.did_not_fit(batch, device_s)
            else:
                self._tell(batch, stepped, began, device_s)
        self._flush()  # before rows are freed: what was said shouldn't wait for that
        self._rows.let_go()
        if self._paging is not None:
            self._export(self._paging)

    def _flush(self) -> None:
        if not (self._overlaps and self._scheduler.has_rows()):  # else the next step does, which is sure to come
            self._in_flight.flush()

    def _spare_work_in_s(self) -> float:
        if self._paging is None or not self._paging.has_exports(idle=True):
            return math.inf
        return 0.0 if self._paging.has_exports(idle=False) else self._may_export_idly_in_s()

    def _may_export_idly_in_s(self) -> float:
        """How long from now, if nothing comes."""
        at = min(self._stepped_at + self._quiet_after_s, self._next_in_gap_at)
        return max(0.0, at - self._in_flight.now())

    def _export(self, paging: EnginePaging[P]) -> None:
        """Pages that are worth it now. Whoever waits for the device waits for no more than one piece of them."""
        with self._in_flight.lock:
            idle = not self._has_work() and not self._may_export_idly_in_s()
        if not paging.has_exports(idle=idle):
            return
        self._in_flight.flush()  # nobody is to wait for pages
        began = self._in_flight.now()
        self._faults.begin(began)
        try:
            paging.export(idle=idle)
        except Exception as error:
            failure = paging.failed(error)
        else:
            if idle:
                ended = self._in_flight.now()
                self._next_in_gap_at = ended + REST_PER_EXPORT * (ended - began)
            return
        if isinstance(failure, OutOfMemory):  # what the error held is free by now
            self._faults.ran_out()
        elif fault_of(failure) is Fault.DEVICE:
            self._faults.judge((), failure)

    def _end(self) -> None:
        self._rows.let_go()

    def _start_next(self) -> bool:
        """Starts whoever is next. False: nobody waits, or there is no room now."""
        with self._in_flight.lock:
            entry = self._scheduler.next_to_start(self._in_flight.now())
            leaving = bool(self._in_flight.leaving)
        if leaving:  # what they hold is free once they are
            self._rows.let_go()
            return True
        if entry is None:
            return self._rows.make_room()
        self._in_flight.flush()  # a start may take long
        work, failure = entry.work, None
        self._faults.begin(self._in_flight.now(), work)
        try:
            if self._stage.can_start(work.item.payload):
                self._rows.start(work)
            elif not self._rows.is_empty():
                return self._rows.make_room()
            else:  # waiting would be for ever
                raise StageFailed(f"stage {self.identity.stage} has no room for this item even when nothing else runs")
        except InputsMissing as missing:
            with self._in_flight.lock:
                self._in_flight.set_aside(work, missing.recipes)
        except Exception as error:
            failure = as_stage_error(self.identity.stage, error, work.item)
        if failure is not None:  # what the error held is free by now
            self._row_faults.not_started(entry, failure)
        return True

    def _step(self, works: Sequence[Work], began: float) -> Sequence[Stepped] | OutOfMemory:
        """One for each, their errors as their requesters see them. Where memory runs out, nothing has happened."""
        self._faults.begin(began)
        try:
            stepped = self._stage.step([work.row for work in works])
            if len(stepped) == len(works):
                if all(one.error is None for one in stepped):
                    return stepped
                return [self._translated(one, work) for one, work in zip(stepped, works, strict=True)]
            raise StageFailed(f"stage {self.identity.stage} answered for {len(stepped)} rows of {len(works)}")
        except Exception as error:
            failure = as_stage_error(self.identity.stage, error, *(work.item for work in works))
        self._in_flight.flush()  # it may not have come so far
        return failure if isinstance(failure, OutOfMemory) else [Stepped(error=failure)] * len(works)

    def _translated(self, one: Stepped, work: Work) -> Stepped:
        return one if one.error is None else one._replace(error=as_stage_error(self.identity.stage, one.error, work.item))

    def _tell(self, batch: Batch[Work], stepped: Sequence[Stepped], began: float, device_s: float) -> None:
        """Events and endings, to whoever is still there; and what the others need of their next step, to the scheduler. `device_s`: that
        the step had of the device."""
        seconds = self._in_flight.now() - began
        works = [entry.work for entry in batch.entries]
        went_well = self._row_faults.went_well(batch, stepped)
        if went_well:
            self._remember_good(works, stepped)
        shared = [self._shared(work, one) for work, one in zip(works, stepped, strict=True)]
        with self._in_flight.lock:
            if worked_on := [work for work, one in zip(works, stepped, strict=True) if one.work != 0]:
                self._in_flight.counters.steps_total += 1
                self._in_flight.count_run(worked_on, began, seconds)
            shares = {work.id: one for work, one in zip(works, shared, strict=True) if isinstance(one, Share)}
            worked = {work.id: one.work for work, one in zip(works, stepped, strict=True) if one.work is not None}
            done = {work.id for work in works} - shares.keys()
            ids = [work.id for work in works]
            did = self._scheduler.complete(ids, device_s, done=done, shares=shares, worked=worked, went_well=went_well)
            for work, one, share in zip(works, stepped, shared, strict=True):
                self._in_flight.tell(work, one.events)
                if isinstance(share, TriptychError):
                    self._in_flight.fail(work, share)
                elif share is None:
                    self._in_flight.settle(work, None)
        if did and went_well and self._paging is not None:
            self._paging.stepped()

    def _shared(self, work: Work, one: Stepped) -> Share | TriptychError | None:
        """What it needs of its next step; None: it is done."""
        if isinstance(one.error, TriptychError):
            return one.error
        try:
            return None if one.done else self._rows.share(work.row)
        except Exception as error:
            return as_stage_error(self.identity.stage, error, work.item)

    def _remember_good(self, works: Sequence[Work], stepped: Sequence[Stepped]) -> None:
        """Only what could start again whatever the stage has let go of since."""
        for work, one in zip(works, stepped, strict=True):
            payload: P = work.item.payload
            if one.error is None and not work.inputs.lacks(payload.needs()):
                self._good = (payload, work.prepared)
                return

    def _still_works(self) -> bool:
        if self._good is None:
            return False
        payload, prepared = self._good
        try:
            if not self._stage.can_start(payload):
                return True  # its rows are busy: what they do will tell
            self._faults.begin(self._in_flight.now())
            row = self._stage.start(payload, prepared)
            try:
                return self._stage.step([row])[0].error is None
            finally:
                self._rows.free(row)
        except Exception as error:
            return fault_of(error) is Fault.OUT_OF_MEMORY
