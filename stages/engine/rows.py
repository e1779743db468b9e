"""The rows of a stage: how one starts, makes way, goes on later, and is freed exactly once.

Decides none of that (`scheduler.py` does). For the engine's thread, not under the lock.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from stages.contract.recipe import Payload
from stages.contract.stage import Foreseeing, IterativeStage, Share
from stages.contract.work import Work as Amount
from stages.engine.device_faults import DeviceFaults
from stages.engine.in_flight import InFlight
from stages.engine.scheduling.scheduler import Entry, IterativeScheduler
from stages.engine.work import Work, as_stage_error

P = TypeVar("P", bound=Payload)
Q = TypeVar("Q")
R = TypeVar("R")


class Rows(Generic[P, Q, R]):
    """What the scheduler says of rows, done with the stage."""

    def __init__(
        self, stage: IterativeStage[P, Q, R], in_flight: InFlight, scheduler: IterativeScheduler[Work], faults: DeviceFaults
    ) -> None:
        self._stage, self._in_flight, self._scheduler, self._faults = stage, in_flight, scheduler, faults
        self._rest: Callable[[R], Amount | None] | None = stage.rest if isinstance(stage, Foreseeing) else None

    def is_empty(self) -> bool:
        """Nobody holds anything of the stage."""
        with self._in_flight.lock:
            return not self._scheduler.running() and not self._in_flight.leaving

    def share(self, row: R) -> Share:
        rest = None if self._rest is None else self._rest(row)
        return Share(self._stage.batch_key(row), self._stage.cost(row), rest)

    def start(self, work: Work) -> None:
        """Or has it go on, where it had made way. Whatever the stage raises."""
        began = self._in_flight.now()
        self._faults.begin(began, work)
        row = self._row_of(work)
        with self._in_flight.lock:
            work.row, work.has_row, work.suspended = row, True, None
            work.inputs = work.inputs.only(work.item.payload.needs())  # pages have served their turn
            work.started_at = began if work.started_at is None else work.started_at
            if work.settled:  # it was withdrawn meanwhile
                self._in_flight.let_go(work)
                return
        share = self.share(row)
        with self._in_flight.lock:
            seconds = self._in_flight.now() - began
            self._in_flight.counters.device_seconds_total += seconds
            work.device_s += seconds
            self._scheduler.start(work.id, share)  # if it was withdrawn since then, it is leaving already

    def _row_of(self, work: Work) -> R:
        payload: P = work.item.payload
        if work.suspended is None:
            return self._stage.start(payload, work.prepared)
        return self._stage.resume(payload, work.prepared, work.suspended)

    def let_go(self) -> None:
        """Frees the rows of whoever has left, or is past its deadline."""
        with self._in_flight.lock:
            self._in_flight.expire(entry.work for entry in self._scheduler.expire(self._in_flight.now()))
            rows: Sequence[R] = self._in_flight.take_leaving()
        if not rows:
            return
        for row in rows:
            self.free(row)
        with self._in_flight.lock:
            self._in_flight.freed()

    def make_room(self) -> bool:
        """Has a row make way for the first in line. False: none does."""
        with self._in_flight.lock:
            entry = self._scheduler.preempt(self._in_flight.now())
            if entry is None:
                return False
            self._in_flight.counters.preempted_total += 1
            row = entry.work.take_row()
        self._suspend(entry.work, row)
        return True

    def suspend_excess(self) -> None:
        """Has every row make way that no longer fits."""
        while (taken := self._take_excess()) is not None:
            self._suspend(*taken)

    def free(self, row: R) -> None:
        try:
            self._stage.finish(row)
        except Exception as error:  # forbidden by the contract; logged, since nobody waits for it any more
            as_stage_error(self._in_flight.identity.stage, error)

    def _take_excess(self) -> tuple[Work, Any] | None:
        with self._in_flight.lock:
            entry: Entry[Work] | None = self._scheduler.take_excess()
            # Taken under the same lock: whoever withdraws the item finds no row to free.
            return None if entry is None else (entry.work, entry.work.take_row())

    def _suspend(self, work: Work, row: R) -> None:
        try:
            suspended = self._stage.suspend(row)
            with self._in_flight.lock:
                work.suspended, work.was_suspended = suspended, True
        except Exception as error:
            with self._in_flight.lock:
                self._in_flight.fail(work, as_stage_error(self._in_flight.identity.stage, error, work.item))
        self.free(row)
