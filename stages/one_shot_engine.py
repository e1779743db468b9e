"""The turn of a device that runs batches: prepare ahead, run, and when a batch fails, find out which item is at fault.

Preparation happens on a small pool of threads while the device is busy with others; an item counts as waiting from the moment
it is submitted, and may join a batch once it is prepared. Decides neither batches nor order: that is the scheduler.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from stages.cores import Seat
from stages.delivery import Deliver, Receiver, deliver_here
from stages.engine import Engine, Handle, Place
from stages.errors import StageFailed, TriptychError
from stages.limits import BatchLimits, QueueLimits
from stages.scheduler import OneShotScheduler
from stages.stage import Arrays, Item, OneShotStage
from stages.work import Clock, Work, as_stage_error

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
    ) -> None:
        self._stage = stage
        self._batches: OneShotScheduler[Work] = OneShotScheduler(batch, queue, name=name)
        self._pool = ThreadPoolExecutor(prepare_threads, thread_name_prefix=f"prepare {name}")
        super().__init__(Place(name, stage.device, replica, dtype), self._batches, deliver, clock, cores)
        self._thread.start()

    def submit(self, item: Item[P], receiver: Receiver) -> Handle:
        with self._lock:
            work = self._accept(item, receiver, ready=False)
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
        works = [entry.work for entry in batch.entries]
        if not works:
            return
        began = self._now()
        error = self._try(works)
        if error is not None:
            self._one_by_one(works, error)
        with self._lock:
            self._batches.complete([work.id for work in works], self._now() - began)

    def _one_by_one(self, works: Sequence[Work], error: TriptychError) -> None:
        """A batch has failed: a bad item fails alone, the others get their results."""
        if len(works) == 1:
            with self._lock:
                self._fail(works[0], error)
            return
        for work in works:
            with self._lock:
                if self._now() >= work.deadline:
                    self._expire([work])
            failure = None if work.settled else self._try([work])
            if failure is not None:
                with self._lock:
                    self._fail(work, failure)
            self._flush()

    def _try(self, works: Sequence[Work]) -> TriptychError | None:
        """Runs a batch, and settles its items if that went well."""
        began = self._now()
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
        return error

    def _count(self, works: Sequence[Work], began: float, seconds: float) -> None:
        self._counters.batches_total += 1
        self._counters.batch_items_total += len(works)
        self._counters.device_seconds_total += seconds
        for work in works:
            work.count_run(began, seconds, len(works))
