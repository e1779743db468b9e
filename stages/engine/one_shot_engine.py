"""The turn of a device that runs batches: prepare ahead, run, and when a batch fails, find out which item is at fault. A batch
that did not fit into memory runs as smaller ones; an item that doesn't fit alone is `TooLarge`.

Preparation happens on a small pool of threads while the device is busy with others; an item counts as waiting from the moment
it is submitted, and may join a batch once it is prepared. Decides neither batches nor order: that is the scheduler.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from stages.contract.errors import OutOfMemory, StageFailed, TriptychError
from stages.contract.faults import Fault, fault_of
from stages.contract.item import Item
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.result import Arrays
from stages.contract.stage import OneShotStage
from stages.device.cores import Seat
from stages.engine.delivery import Deliver, Receiver, deliver_here
from stages.engine.engine import Engine, Handle, Place
from stages.engine.health import MAX_STEP_S
from stages.engine.scheduler import Entry, OneShotScheduler, fill
from stages.engine.work import Clock, Work, as_stage_error

P = TypeVar("P")
Q = TypeVar("Q")


class OneShotEngine(Engine[P], Generic[P, Q]):
    """Runs one `OneShotStage`. Results are delivered with one call of `deliver` for a batch."""

    def __init__(
        self,
        stage: OneShotStage[P, Q],
        *,
        name: str,
        replica: str = "local",
        dtype: str = "float32",
        batch: BatchLimits = BatchLimits(),
        queue: QueueLimits = QueueLimits(),
        deliver: Deliver = deliver_here,
        clock: Clock = Clock(),
        cores: Seat | None = None,
        prepare_threads: int = 2,
        max_step_s: float = MAX_STEP_S,
    ) -> None:
        self._stage = stage
        self._good: Q | None = None  # what has run well
        self._batches: OneShotScheduler[Work] = OneShotScheduler(batch, queue, name=name)
        self._pool = ThreadPoolExecutor(prepare_threads, thread_name_prefix=f"prepare {name}")
        super().__init__(Place(name, stage.device, replica, dtype), self._batches, deliver, clock, cores, max_step_s)
        self._thread.start()

    def submit(self, item: Item[P], receiver: Receiver) -> Handle:
        with self._lock:
            work = self._accept(item, receiver, None)
            self._pool.submit(self._prepare, work)
        return Handle(self, work)

    def close(self, timeout_s: float | None = None) -> None:
        super().close(timeout_s)
        self._pool.shutdown(wait=timeout_s is None, cancel_futures=True)

    # ---- a pool thread ----

    def _prepare(self, work: Work) -> None:
        if work.settled:
            return
        try:
            state = self._stage.prepare(work.item.payload)
            batch_key, cost = self._stage.batch_key(state), self._stage.cost(state)
            with self._wake:
                work.state = state
                self._batches.waiting.ready(work.id, batch_key, cost)
                self._wake.notify()
        except Exception as error:
            self._drop(work, as_stage_error(self.place.stage, error, work.item.id))

    def _drop(self, work: Work, error: TriptychError) -> None:
        with self._lock:
            self._fail(work, error)
            self._remove(work)
        self._flush()

    # ---- the engine's thread ----

    def _has_work(self) -> bool:
        return self._batches.has_work()

    def _turn(self) -> None:
        with self._lock:
            batch = self._batches.next_batch(self._now())
            self._expire(entry.work for entry in batch.expired)
        self._flush()
        if not batch.entries:
            return
        began = self._now()
        self._run_all(batch.entries)
        with self._lock:
            self._batches.complete([entry.id for entry in batch.entries], self._now() - began)

    def _run_all(self, entries: Sequence[Entry[Work]]) -> None:
        """At once, or in as many batches as memory demands."""
        left = list(entries)
        while left:
            chosen = fill(left, self._batches.bound.limits)
            failure = self._try(chosen)
            if isinstance(failure, OutOfMemory) and len(chosen) > 1:
                self._ran_out()
                with self._lock:
                    self._batches.bound.ran_out(len(chosen), sum(entry.cost for entry in chosen))
            else:
                left = [entry for entry in left if entry not in chosen]
                if failure is not None:
                    self._one_by_one(chosen, failure)
            self._flush()
            left = [entry for entry in left if self._may_run(entry.work)]

    def _one_by_one(self, entries: Sequence[Entry[Work]], error: TriptychError) -> None:
        """A batch has failed: a bad item fails alone, the others get their results."""
        if fault_of(error) is Fault.DEVICE:
            self._judge([entry.work for entry in entries], error)
        elif len(entries) == 1:
            self._alone(entries[0], error)
        else:
            for entry in entries:
                if self._may_run(entry.work):
                    failure = self._try([entry])
                    if failure is not None:
                        self._alone(entry, failure)
                self._flush()

    def _alone(self, entry: Entry[Work], failure: TriptychError | None) -> None:
        """It has failed with the device to itself."""
        while isinstance(failure, OutOfMemory):
            self._ran_out()
            failure = self._try([entry]) if self._shrunk(self._stage) else self._too_large(entry.cost)
        if failure is not None:
            self._judge([entry.work], failure)
            with self._lock:
                self._fail(entry.work, failure)

    def _may_run(self, work: Work) -> bool:
        with self._lock:
            if self._now() >= work.deadline:
                self._expire([work])
        return not work.settled

    def _try(self, entries: Sequence[Entry[Work]]) -> TriptychError | None:
        """Runs a batch, and settles its items if that went well."""
        works = [entry.work for entry in entries]
        began = self._now()
        self._health.begin(began)
        try:
            results: Sequence[Arrays] = self._stage.run([work.state for work in works])
            if len(results) != len(works):
                raise StageFailed(f"stage {self.place.stage} gave {len(results)} results for {len(works)} items")
            error = None
        except Exception as failure:
            results, error = (), as_stage_error(self.place.stage, failure, *(work.item.id for work in works))
        seconds = self._now() - began
        with self._lock:
            self._count(works, began, seconds)
            for work, result in zip(works, results, strict=False):
                self._settle(work, result)
        if error is None:
            self._went_well(sum(entry.cost for entry in entries))
            self._good = works[-1].state
        return error

    def _still_works(self) -> bool:
        if self._good is None:
            return False
        self._health.begin(self._now())
        try:
            return len(self._stage.run([self._good])) == 1
        except Exception as error:
            return fault_of(error) is Fault.OUT_OF_MEMORY

    def _count(self, works: Sequence[Work], began: float, seconds: float) -> None:
        self._counters.batches_total += 1
        self._counters.batch_items_total += len(works)
        self._counters.device_seconds_total += seconds
        for work in works:
            work.count_run(began, seconds, len(works))
