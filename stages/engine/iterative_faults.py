"""What becomes of rows that fail, or do not fit into memory: nothing fails that fits alone.

Where a step does not fit, the scheduler's bound is lowered; rows beyond it are suspended, to be resumed in their turn, and the
others go on. Where a start doesn't, it waits until a row has left. A row that finds no room with the device to itself is `TooLarge`.
For the engine's thread, not under the lock.
"""

from collections.abc import Sequence
from typing import Any

from stages.contract.errors import OutOfMemory, TriptychError
from stages.contract.faults import Fault, fault_of
from stages.contract.stage import Share, Stepped
from stages.engine.device_faults import DeviceFaults
from stages.engine.in_flight import InFlight
from stages.engine.rows import Rows
from stages.engine.scheduling.scheduler import Batch, Entry, IterativeScheduler
from stages.engine.work import Work, as_stage_error


class RowFaults:
    """See the module."""

    def __init__(
        self, rows: Rows[Any, Any, Any], in_flight: InFlight, scheduler: IterativeScheduler[Work], faults: DeviceFaults
    ) -> None:
        self._rows, self._in_flight, self._scheduler, self._faults = rows, in_flight, scheduler, faults

    def not_started(self, entry: Entry[Work], failure: TriptychError) -> None:
        work = entry.work
        if isinstance(failure, OutOfMemory) and not work.has_row:
            self._faults.ran_out()
            if not self._rows.is_empty():
                with self._in_flight.lock:
                    self._scheduler.hold()
                return
            failure = self._faults.too_large(entry.cost)
        self._faults.judge([work], failure)
        with self._in_flight.lock:
            self._in_flight.fail(work, failure)

    def did_not_fit(self, batch: Batch[Work], seconds: float) -> None:
        """No row has changed: fewer of them go on."""
        self._faults.ran_out()
        works = [entry.work for entry in batch.entries]
        shares = self._smaller(works[0], batch.cost) if len(works) == 1 else {}
        with self._in_flight.lock:
            if len(works) > 1:
                self._scheduler.bound.ran_out(len(works), batch.cost)
            self._in_flight.counters.device_seconds_total += seconds
            self._scheduler.complete([work.id for work in works], seconds, done=(), shares=shares, went_well=False)
        self._rows.suspend_excess()

    def _smaller(self, work: Work, cost: float) -> dict[str, Share]:
        """Alone in its step, it goes on in smaller pieces (of this share), or with the device to itself, or not at all."""
        with self._in_flight.lock:
            leaving, num_running = bool(self._in_flight.leaving), len(self._scheduler.running())
        failure: TriptychError
        try:
            if not leaving and self._faults.shrunk():
                return {work.id: self._rows.share(work.row)}
            failure = self._faults.too_large(cost)
        except Exception as error:
            failure = as_stage_error(self._in_flight.identity.stage, error, work.item)
        with self._in_flight.lock:
            if leaving or num_running > 1:
                self._scheduler.isolate(work.id)
            else:
                self._in_flight.fail(work, failure)
        return {}

    def went_well(self, batch: Batch[Work], stepped: Sequence[Stepped]) -> bool:
        """What a step says about the device: rows may fail alone."""
        errors = [one.error for one in stepped if isinstance(one.error, TriptychError)]
        lost = next((error for error in errors if fault_of(error) is Fault.DEVICE), None)
        if lost is not None or len(errors) == len(stepped):
            self._faults.judge([entry.work for entry in batch.entries], lost or errors[0])
            return False
        self._faults.went_well(batch.cost)
        return True
