"""What becomes of a batch that fails: it is run in parts, so that a bad item fails alone and the others get their results.

A batch that did not fit into memory runs as smaller ones; an item that doesn't fit alone is `TooLarge`. A result that is no number
is a failure, whatever the stage thinks of it: it would be shared and remembered. Knows no stage.
"""

from collections import deque
from collections.abc import Sequence

from cache.finite import is_finite
from stages.contract.errors import OutOfMemory, StageFailed, TriptychError
from stages.contract.faults import Fault, fault_of
from stages.contract.result import Result
from stages.engine.device_faults import DeviceFaults
from stages.engine.in_flight import InFlight
from stages.engine.scheduling.fairness import fill
from stages.engine.scheduling.scheduler import Entry
from stages.engine.work import Work


class BatchParts:
    """One batch: what of it is to be run next, as a whole or in parts. For the engine's thread, not under the lock."""

    def __init__(self, entries: Sequence[Entry[Work]], in_flight: InFlight, faults: DeviceFaults) -> None:
        self._together, self._one_by_one = list(entries), deque[Entry[Work]]()
        self._in_flight, self._faults = in_flight, faults

    def following(self) -> Sequence[Entry[Work]]:
        """What to run next, of what may still run. Empty: nothing is left."""
        with self._in_flight.lock:
            late = [
                entry.work for entry in (*self._together, *self._one_by_one) if entry.work.deadline <= self._in_flight.now()
            ]
            self._in_flight.expire(late)
            self._together = [entry for entry in self._together if not entry.work.settled]
            while self._one_by_one:
                entry = self._one_by_one.popleft()
                if not entry.work.settled:
                    return [entry]
            return fill(self._together, self._in_flight.scheduler.bound.limits)

    def went_well(self, part: Sequence[Entry[Work]], results: Sequence[Result]) -> Work | None:
        """The last whose result is one. None: there is no number in any, which may be the device's fault."""
        finite = [is_finite(result.arrays()) for result in results]
        with self._in_flight.lock:
            for entry, result, sound in zip(part, results, finite, strict=True):
                if sound:
                    self._in_flight.settle(entry.work, result)
                else:
                    self._in_flight.fail(entry.work, self._no_number())
        if not any(finite):
            self._faults.judge([entry.work for entry in part], self._no_number())
            return None
        self._faults.went_well(sum(entry.cost for entry in part))
        return [entry.work for entry, sound in zip(part, finite, strict=True) if sound][-1]

    def _no_number(self) -> StageFailed:
        stage = self._in_flight.identity.stage
        return StageFailed(f"stage {stage} made a result with a NaN or an infinity in it; another dtype may help")

    def failed(self, part: Sequence[Entry[Work]], error: TriptychError) -> None:
        if fault_of(error) is Fault.DEVICE:
            self._faults.judge([entry.work for entry in part], error)
        elif len(part) == 1:
            self._failed_alone(part[0], error)
        elif isinstance(error, OutOfMemory):
            self._faults.ran_out()
            with self._in_flight.lock:
                self._in_flight.scheduler.bound.ran_out(len(part), sum(entry.cost for entry in part))
        else:
            self._together = [entry for entry in self._together if entry not in part]
            self._one_by_one.extend(part)

    def _failed_alone(self, entry: Entry[Work], error: TriptychError) -> None:
        if isinstance(error, OutOfMemory):
            self._faults.ran_out()
            if self._faults.shrunk():
                self._one_by_one.appendleft(entry)
                return
            error = self._faults.too_large(entry.cost)
        self._faults.judge([entry.work], error)
        with self._in_flight.lock:
            self._in_flight.fail(entry.work, error)
