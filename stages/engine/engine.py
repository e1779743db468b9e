"""The device's own thread: takes items from any thread, runs them as its scheduler decides, survives whatever a stage does.

Here is what both kinds of engine share: accepting, cancelling, expiring, closing, counting. How a turn of the device goes is
in `stages/engine/one_shot_engine.py` and `stages/engine/iterative_engine.py`. Knows time; knows no event loop, except through `Deliver`.

A device that is broken (`stages/engine/health.py`) fails everything in hand with `Broken`, so that it is run elsewhere; nothing is taken in
any more, the thread ends as soon as it can, and `check` says so.

Who may touch what: the scheduler, the counters and every `Work` are changed under `_lock` only; the stage is called without
it, and on the engine's thread only (`prepare` and `check` excepted). Answers are collected under the lock, delivered after.
"""

import itertools
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from stages.contract.errors import (
    Broken,
    Cancelled,
    DeadlineExceeded,
    Overloaded,
    StageFailed,
    TooLarge,
    TriptychError,
    Unavailable,
)
from stages.contract.faults import Fault, fault_of
from stages.contract.limits import QueueLimits
from stages.contract.stage import Arrays, Item, Shrinkable
from stages.device.cores import Seat
from stages.device.device_memory import empty_cache, free_bytes
from stages.engine.counters import Counters
from stages.engine.delivery import Call, Deliver, Receiver
from stages.engine.health import MAX_FAILURES, Health
from stages.engine.scheduler import Entry, Load, Scheduler
from stages.engine.work import Clock, Work, as_stage_error

P = TypeVar("P")
RETRY_AFTER_CLOSE_S = 1.0
RETRY_AFTER_BROKEN_S = 5.0


@dataclass(frozen=True, slots=True)
class Place:
    """Who an engine is, for receipts and messages."""

    stage: str
    device: str
    replica: str = "local"
    dtype: str = "float32"


class Handle:
    """One submitted item, for whoever submitted it. Any thread."""

    def __init__(self, engine: "Engine[Any]", work: Work) -> None:
        self._engine, self._work = engine, work

    def cancel(self) -> None:
        """Its receiver gets `Cancelled` (`DeadlineExceeded` past its deadline) unless it has its answer. Idempotent."""
        self._engine.withdraw(self._work)

    def expire(self) -> None:
        """Its receiver gets `DeadlineExceeded` unless it has its answer."""
        self._engine.withdraw(self._work, expired=True)

    def amend(self, priority: int, deadline: float) -> bool:
        """Someone else wants its result too, by `deadline` (wall clock): the more urgent priority and the later deadline
        count from now on. False: it has failed already.
        """
        return self._engine.amend(self._work, priority, deadline)

    def too_late(self) -> DeadlineExceeded:
        return self._engine.too_late(self._work)


class Engine(ABC, Generic[P]):
    """See the module. `close` must be called, from any thread but its own; it closes the seat, too."""

    def __init__(
        self,
        place: Place,
        scheduler: Scheduler[Work],
        deliver: Deliver,
        clock: Clock,
        cores: Seat | None,
        max_step_s: float,
    ) -> None:
        self.place = place
        self._health = Health(max_step_s)
        self._cores = cores
        self._scheduler = scheduler
        self._deliver = deliver
        self._clock = clock
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._counters = Counters()
        self._live: dict[str, Work] = {}  # not settled
        self._outbox: list[Call] = []
        self._delivering = threading.RLock()  # keeps answers in order; a receiver that is called directly may cancel others
        self._closing = False
        self._serial = itertools.count()
        self._thread = threading.Thread(target=self._run, name=f"stage {place.stage}", daemon=True)

    # ---- any thread ----

    @abstractmethod
    def submit(self, item: Item[P], receiver: Receiver) -> Handle:
        """Takes the item in. Raises `QueueFull`, `Unavailable` (closed), `DeadlineExceeded` (too late), `InvalidRequest`."""

    def withdraw(self, work: Work, *, expired: bool = False) -> None:
        with self._wake:
            if work.settled:
                return
            if expired or self._now() >= work.deadline:
                self._expire([work])
            else:
                self._counters.cancelled_total += 1
                self._settle(work, Cancelled(f"the request to stage {self.place.stage} was cancelled"))
            self._remove(work)
            self._wake.notify()
        self._flush()

    def amend(self, work: Work, priority: int, deadline: float) -> bool:
        with self._lock:
            work.deadline = max(work.deadline, self._clock.to_monotonic(deadline))
            self._scheduler.waiting.amend(work.id, priority, work.deadline)
            return not work.failed

    def too_late(self, work: Work) -> DeadlineExceeded:
        with self._lock:
            return work.too_late(self.place.stage, self._now())

    def limit_queue(self, limits: QueueLimits) -> None:
        """Judges what comes from now on by these bounds."""
        with self._lock:
            self._scheduler.waiting.limit(limits)

    def load(self) -> Load:
        with self._lock:
            return self._scheduler.load()

    def metrics(self) -> dict[str, float]:
        with self._lock:
            load, bound = self._scheduler.load(), self._scheduler.bound.limits
            return {
                "queued": float(load.queued),
                "running": float(load.running),
                "batch_bound_items": float(bound.max_items),
                "batch_bound_cost": bound.max_cost,
                **self._counters.as_metrics(),
            }

    @property
    def is_broken(self) -> bool:
        return self._health.broken is not None

    def check(self) -> None:
        """Raises `Unavailable` where the device is broken, its batch doesn't end, or the thread is gone."""
        with self._wake:
            self._health.check(self._now())
            if self._health.broken is not None:
                self._break(self._health.broken)
        self._flush()
        if self._health.broken is not None:
            raise self._refusal(self._health.broken)
        if not self._thread.is_alive():
            raise self._closed()

    def check_integrity(self) -> None:
        """Raises `RuntimeError` for a broken invariant of the scheduler."""
        with self._lock:
            self._scheduler.check_integrity()

    def close(self, timeout_s: float | None = None) -> None:
        """Whatever is unfinished fails with `Unavailable`, at once; then waits for the running step, if any. Idempotent."""
        with self._wake:
            self._closing = True
            self._settle_everything(self._closed())
            self._wake.notify()
        self._flush()
        self._thread.join(timeout_s)

    def _accept(self, item: Item[P], receiver: Receiver, share: tuple[Hashable, float] | None) -> Work:
        """Queues it; with what it needs of a batch, where that is known already. The caller holds the lock."""
        if self._health.broken is not None:
            raise self._refusal(self._health.broken)
        if self._closing:
            raise self._closed()
        now = self._now()
        work = Work(f"{item.id}#{next(self._serial)}", item, receiver, now, self._clock.to_monotonic(item.deadline))
        if work.deadline <= now:
            self._counters.expired_total += 1
            raise work.too_late(self.place.stage, now)
        key, cost = share or (None, 1.0)
        try:
            self._scheduler.add(
                Entry(work.id, work, key, cost, item.priority, work.deadline, arrival=now, ready=share is not None),
            )
        except Overloaded:
            self._counters.rejected_total += 1
            raise
        self._counters.items_total += 1
        self._live[work.id] = work
        return work

    # ---- under the lock ----

    def _now(self) -> float:
        return self._clock.monotonic()

    def _settle(self, work: Work, answer: Arrays | TriptychError) -> None:
        """The last word on an item. Later ones are not said."""
        if work.settled:
            return
        work.settled = True
        self._live.pop(work.id, None)
        if isinstance(answer, TriptychError):
            work.failed = True
            self._outbox.append(partial(work.receiver.failed, answer))
        else:
            receipt = work.receipt(self.place.stage, self.place.replica, self.place.device, self.place.dtype)
            self._outbox.append(partial(work.receiver.done, answer, receipt))

    def _fail(self, work: Work, error: TriptychError) -> None:
        if work.settled:
            return
        if isinstance(error, Overloaded):
            self._counters.rejected_total += 1
        else:
            self._counters.failed_total += 1
        self._settle(work, error)

    def _expire(self, works: Iterable[Work]) -> None:
        for work in works:
            if not work.settled:
                self._counters.expired_total += 1
                self._settle(work, work.too_late(self.place.stage, self._now()))

    def _settle_everything(self, error: TriptychError) -> None:
        for work in list(self._live.values()):
            self._settle(work, error.for_request())
            self._remove(work)

    def _remove(self, work: Work) -> None:
        """Takes a settled item out of the scheduler, as far as that is possible now."""
        self._scheduler.cancel(work.id)

    def _break(self, why: str) -> None:
        """The device is broken: nothing more will come of what is in hand. Idempotent."""
        if self._live:
            logging.getLogger("triptych.stages").critical("stage %s: its device is broken: %s", self.place.stage, why)
        self._health.lost(why)
        self._settle_everything(
            Broken(
                f"stage {self.place.stage}: its device {self.place.device} broke under the request ({why}); try again",
                retry_after_s=RETRY_AFTER_BROKEN_S,
            )
        )
        self._wake.notify()

    def _refusal(self, why: str) -> Unavailable:
        return Unavailable(
            f"stage {self.place.stage}: its device {self.place.device} is broken ({why}), and its replica is about to be replaced; "
            "try again",
            retry_after_s=RETRY_AFTER_BROKEN_S,
        )

    def _closed(self) -> Unavailable:
        return Unavailable(f"stage {self.place.stage} is shutting down; try again", retry_after_s=RETRY_AFTER_CLOSE_S)

    # ---- what a batch's errors say about the device: the engine's thread, not under the lock ----

    def _went_well(self, cost: float) -> None:
        self._health.went_well()
        with self._lock:
            self._scheduler.bound.went_well(cost)

    def _judge(self, works: Sequence[Work], error: TriptychError) -> None:
        """A batch of these failed as a whole. An error that stays fails everything in hand with `Broken`."""
        if fault_of(error) is Fault.DEVICE:
            with self._wake:
                self._break(error.message)
        elif isinstance(error, StageFailed):
            self._health.failed([work.id for work in works])

    def _put_to_the_test(self) -> None:
        if self._still_works():
            self._health.went_well()
        else:
            with self._wake:
                self._break(f"{MAX_FAILURES} batches in a row failed, and what went well before fails, too")

    @abstractmethod
    def _still_works(self) -> bool:
        """Whether the device still does what it did well before. False where it never did anything well."""

    def _ran_out(self) -> None:
        """After an error of memory, once nothing holds on to the error."""
        empty_cache(self.place.device)
        with self._lock:
            self._counters.out_of_memory_total += 1

    def _shrunk(self, stage: object) -> bool:
        return isinstance(stage, Shrinkable) and stage.shrink()

    def _too_large(self, cost: float) -> TooLarge:
        free = free_bytes(self.place.device)
        has = "has" if free is None else f"has free ({free / 2**20:,.0f} MiB)"
        return TooLarge(
            f"stage {self.place.stage}: this request alone (work of {cost:g}) needs more memory than its device "
            f"{self.place.device} {has}; ask for less (a smaller picture, fewer tokens), or serve the stage on a larger device "
            "or with a smaller models.*.*.dtype"
        )

    # ---- the engine's thread ----

    @abstractmethod
    def _has_work(self) -> bool:
        """Whether a turn would do something. Under the lock."""

    @abstractmethod
    def _turn(self) -> None:
        """One batch or one step."""

    def _end(self) -> None:
        """Frees what is left, after the last turn."""

    def _run(self) -> None:
        while self._wait_for_work():
            self._guarded(self._turn)
            if self._health.is_suspect:
                self._guarded(self._put_to_the_test)
            self._health.end()
        self._guarded(self._end)
        if self._cores is not None:
            self._cores.close()

    def _wait_for_work(self) -> bool:
        with self._wake:
            if self._cores is not None and not self._has_work():
                self._cores.leave()
            while not (self._closing or self.is_broken or self._has_work()):
                self._wake.wait()
            if self._closing or self.is_broken:
                return False
        if self._cores is not None:
            self._cores.take()
        return True

    def _guarded(self, do: Callable[[], None]) -> None:
        """A stage's errors are handled where they arise. Of others, everything in hand fails, and the thread lives on."""
        try:
            do()
        except BaseException as error:
            logging.getLogger("triptych.stages").critical("engine of stage %s", self.place.stage, exc_info=error)
            with self._lock:
                self._settle_everything(as_stage_error(self.place.stage, error))
                self._scheduler.clear()
        self._flush()

    def _flush(self) -> None:
        """Delivers what has been said, in order. Not under the lock."""
        with self._delivering:
            with self._lock:
                calls, self._outbox = self._outbox, []
            if calls:
                self._deliver(calls)
