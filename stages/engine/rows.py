"""The rows of a stage: how one starts, makes way, goes on later, and is freed exactly once.

Decides none of that (`scheduler.py` does). For the engine's thread, not under the lock.
"""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from stages.contract.recipe import Payload
from stages.contract.stage import IterativeStage
from stages.engine.device_faults import DeviceFaults
from stages.engine.in_hand import InHand
from stages.engine.scheduler import Entry, IterativeScheduler, Share
from stages.engine.work import Work, as_stage_error

P = TypeVar("P", bound=Payload)
Q = TypeVar("Q")
R = TypeVar("R")


class Rows(Generic[P, Q, R]):
    """What the scheduler says of rows, done with the stage."""

    def __init__(
        self, stage: IterativeStage[P, Q, R], hand: InHand, scheduler: IterativeScheduler[Work], faults: DeviceFaults
    ) -> None:
        self._stage, self._hand, self._scheduler, self._faults = stage, hand, scheduler, faults

    def is_empty(self) -> bool:
        """Nobody holds anything of the stage."""
        with self._hand.lock:
            return not self._scheduler.running() and not self._hand.leaving

    def share(self, row: R) -> Share:
        return Share(self._stage.batch_key(row), self._stage.cost(row))

    def start(self, work: Work) -> None:
        """Or has it go on, where it had made way. Whatever the stage raises."""
        began = self._hand.now()
        self._faults.begin(began)
        row = self._row_of(work)
        with self._hand.lock:
            work.row, work.has_row, work.suspended = row, True, None
            work.started_at = began if work.started_at is None else work.started_at
            if work.settled:  # it was withdrawn meanwhile
                self._hand.let_go(work)
                return
        share = self.share(row)
        with self._hand.lock:
            seconds = self._hand.now() - began
            self._hand.counters.device_seconds_total += seconds
            work.device_s += seconds
            self._scheduler.start(work.id, share)  # if it was withdrawn since then, it is leaving already

    def _row_of(self, work: Work) -> R:
        payload: P = work.item.payload
        if work.suspended is None:
            return self._stage.start(payload, work.prepared)
        return self._stage.resume(payload, work.prepared, work.suspended)

    def let_go(self) -> None:
        """Frees the rows of whoever has left, or is past its deadline."""
        with self._hand.lock:
            self._hand.expire(entry.work for entry in self._scheduler.expire(self._hand.now()))
            leaving, self._hand.leaving = self._hand.leaving, []
            rows: Sequence[R] = [work.take_row() for work in leaving]
        for row in rows:
            self.free(row)

    def make_room(self) -> bool:
        """Has a row make way for the first in line. False: none does."""
        with self._hand.lock:
            entry = self._scheduler.preempt(self._hand.now())
            if entry is None:
                return False
            self._hand.counters.preempted_total += 1
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
            as_stage_error(self._hand.identity.stage, error)

    def _take_excess(self) -> tuple[Work, Any] | None:
        with self._hand.lock:
            entry: Entry[Work] | None = self._scheduler.take_excess()
            # Taken under the same lock: whoever withdraws the item finds no row to free.
            return None if entry is None else (entry.work, entry.work.take_row())

    def _suspend(self, work: Work, row: R) -> None:
        try:
            suspended = self._stage.suspend(row)
            with self._hand.lock:
                work.suspended = suspended
        except Exception as error:
            with self._hand.lock:
                self._hand.fail(work, as_stage_error(self._hand.identity.stage, error, work.item.id))
        self.free(row)
