"""What both kinds of engine share: the seam (`stages/contract/engine.py`), preparing on a pool's threads, and the device's thread.

An item is checked and weighed as it comes, on its caller's thread; it is prepared on a pool's, with its inputs at hand; what is
prepared runs on the engine's own thread, as its scheduler decides. How a turn of the device goes is in `one_shot.py` and
`iterative.py`. What lacks an input after all is set aside, and prepared again once that is supplied. Knows time; knows no event
loop, except through `Deliver`.
"""

import logging
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Generic, Protocol, TypedDict, TypeVar

from stages.concurrency.thread_pool import working_for
from stages.contract.engine import EngineIdentity, Handle, Load, Receiver
from stages.contract.errors import Cancelled, DeadlineExceeded, OutOfMemory, TriptychError, Unavailable
from stages.contract.faults import Fault, fault_of
from stages.contract.histogram import HistogramCounts
from stages.contract.item import DEFAULT_TENANT, Item
from stages.contract.limits import QueueLimits
from stages.contract.pages import Paging
from stages.contract.recipe import NO_INPUTS, Inputs, Payload, Recipe
from stages.contract.result import Result
from stages.contract.stage import Resident, Share
from stages.contract.wanted import wanted_while
from stages.device.cores import CoreLease
from stages.device.device_name import device_name
from stages.device.shared_device import DeviceShare, SharedDevice
from stages.engine.delivery import Deliver, deliver_here
from stages.engine.device_faults import DeviceFaults
from stages.engine.health import MAX_STEP_S
from stages.engine.in_flight import InFlight
from stages.engine.scheduling.learned_speed import MeasuredSteps
from stages.engine.scheduling.scheduler import Batch, Scheduler
from stages.engine.work import Clock, Work, as_stage_error

P = TypeVar("P", bound=Payload)
P_contra = TypeVar("P_contra", bound=Payload, contravariant=True)
Q = TypeVar("Q")
Q_co = TypeVar("Q_co", covariant=True)
RETRY_AFTER_CLOSE_S = 1.0
CLOSE_CHECK_S = 0.2


class PreparingStage(Protocol[P_contra, Q_co]):
    """What both kinds of stage can do before anything runs."""

    @property
    def device(self) -> str: ...

    def check(self, payload: P_contra) -> None: ...

    def weigh(self, payload: P_contra) -> float: ...

    def prepare(self, payload: P_contra, inputs: Inputs) -> Q_co: ...


class EngineOptions(TypedDict, total=False):
    """What both kinds of engine may be told beside their name and bounds. `cores`: its part of the machine's, where it computes on
    the CPU; the engine closes it. `measured`: how fast its device is, by a profile, or by an estimate (None: it learns that). `share`: of a
    device that other stages compute on, too."""

    replica: str
    dtype: str
    deliver: Deliver
    clock: Clock
    cores: CoreLease | None
    prepare_threads: int
    max_step_s: float
    measured: MeasuredSteps | None
    share: DeviceShare | None


class SubmittedItem:
    """The `Handle` of one item."""

    def __init__(self, engine: "BaseEngine[Any, Any]", work: Work) -> None:
        self._engine, self._work = engine, work

    def supply(self, inputs: Inputs) -> None:
        self._engine.supply(self._work, inputs)

    def fail(self, error: TriptychError) -> None:
        self._engine.fail(self._work, error)

    def cancel(self) -> None:
        self._engine.withdraw(self._work)

    def expire(self) -> None:
        self._engine.withdraw(self._work, expired=True)

    def amend(self, priority: int, deadline: float) -> bool:
        return self._engine.amend(self._work, priority, deadline)

    def too_late(self) -> DeadlineExceeded:
        return self._engine.too_late(self._work)


class BaseEngine(ABC, Generic[P, Q]):
    """An `Engine`. `close` must be called, from any thread but its own."""

    def __init__(
        self,
        stage: PreparingStage[P, Q],
        scheduler: Scheduler[Work],
        *,
        name: str,
        replica: str = "local",
        dtype: str = "float32",
        deliver: Deliver = deliver_here,
        clock: Clock = Clock(),
        cores: CoreLease | None = None,
        prepare_threads: int = 2,
        max_step_s: float = MAX_STEP_S,
        measured: MeasuredSteps | None = None,
        share: DeviceShare | None = None,
    ) -> None:
        """Starts no thread yet: `_thread` is to be started once the engine is complete."""
        self._preparer, self._cores = stage, cores
        self._share = share if share is not None else SharedDevice().share()
        self._share.is_of(self.load)
        scheduler.speed.begin_with(measured)
        self._in_flight = InFlight(
            EngineIdentity(name, stage.device, replica, dtype, device_name(stage.device)), scheduler, deliver, clock
        )
        self._faults = DeviceFaults(self._in_flight, stage, max_step_s)
        self._closing = self._woken = False
        self._pool = ThreadPoolExecutor(prepare_threads, thread_name_prefix=f"prepare {name}")
        self._thread = threading.Thread(target=self._run_turns, name=f"stage {name}", daemon=True)

    # ---- any thread ----

    @property
    def identity(self) -> EngineIdentity:
        return self._in_flight.identity

    @property
    @abstractmethod
    def result_type(self) -> type[Result] | None: ...

    @property
    def paging(self) -> Paging[P] | None:
        return None

    def needs(self, payload: P, tenant: str = DEFAULT_TENANT, inputs: Inputs = NO_INPUTS) -> Sequence[Recipe[Any]]:
        """A payload that needs nothing is not looked at here: `submit` will."""
        if not payload.needs():
            return ()
        try:
            self._refuse_now(payload, tenant)
            return self._needs_of(payload, inputs)
        except Exception as error:
            raise as_stage_error(self.identity.stage, error) from None

    @abstractmethod
    def _needs_of(self, payload: P, inputs: Inputs) -> Sequence[Recipe[Any]]:
        """Of what a checked payload needs, what must be at hand beside these."""

    def _refuse_now(self, payload: P, tenant: str) -> None:
        """Raises what `submit` would raise now."""
        self._refuse_if_ended()
        cost = self._checked_cost(payload)
        with self._in_flight.lock:
            self._in_flight.refuse_if_full(cost, tenant)

    def _checked_cost(self, payload: P) -> float:
        self._preparer.check(payload)
        return self._preparer.weigh(payload)

    def submit(self, item: Item[P], inputs: Inputs, receiver: Receiver) -> Handle:
        try:
            cost, others_s = self._checked_cost(item.payload), self._share.others_s()
            with self._in_flight.lock:
                self._refuse_if_ended()
                work = self._in_flight.accept(item, inputs, receiver, cost, others_s)
                self._prepare_soon(work)
            if work.settled:
                self._in_flight.flush()
        except Exception as error:
            raise as_stage_error(self.identity.stage, error, item) from None
        return SubmittedItem(self, work)

    def supply(self, work: Work, inputs: Inputs) -> None:
        with self._in_flight.lock:
            if not work.settled and self._in_flight.now() >= work.deadline:
                self._in_flight.expire([work])
            if self._in_flight.bring_back(work, inputs):
                self._prepare_soon(work)
        self._in_flight.flush()

    def fail(self, work: Work, error: TriptychError) -> None:
        with self._in_flight.lock:
            self._in_flight.fail(work, error)
        self._in_flight.flush()

    def withdraw(self, work: Work, *, expired: bool = False) -> None:
        with self._in_flight.lock:
            if work.settled:
                return
            if expired or self._in_flight.now() >= work.deadline:
                self._in_flight.expire([work])
            else:
                self._in_flight.counters.cancelled_total += 1
                self._in_flight.settle(work, Cancelled(f"the request to stage {self.identity.stage} was cancelled"))
        self._in_flight.flush()

    def amend(self, work: Work, priority: int, deadline: float) -> bool:
        with self._in_flight.lock:
            return self._in_flight.amend(work, priority, deadline)

    def too_late(self, work: Work) -> DeadlineExceeded:
        with self._in_flight.lock:
            return self._in_flight.too_late(work)

    def limit_queue(self, limits: QueueLimits) -> None:
        """Judges what comes from now on by these bounds."""
        with self._in_flight.lock:
            self._in_flight.scheduler.waiting.limit(limits)

    def load(self) -> Load:
        with self._in_flight.lock:
            return self._in_flight.load()

    def residency(self) -> Collection[str]:
        return self._preparer.resident_names() if isinstance(self._preparer, Resident) else ()

    def metrics(self) -> dict[str, float]:
        with self._in_flight.lock:
            return self._in_flight.metrics()

    def histograms(self) -> Mapping[str, HistogramCounts]:
        with self._in_flight.lock:
            return self._in_flight.distributions.counts(has_events=self.result_type is None)

    @property
    def is_broken(self) -> bool:
        return self._faults.is_broken

    def check(self) -> None:
        """Raises `Unavailable` where the device is broken, its batch or a preparation doesn't end, or the thread is gone."""
        self._faults.check()
        if not self._thread.is_alive():
            raise self._closed()

    def check_integrity(self) -> None:
        """Raises `RuntimeError` for a broken invariant."""
        with self._in_flight.lock:
            self._in_flight.check_integrity()

    def close(self, timeout_s: float | None = None) -> None:
        with self._in_flight.lock:
            self._closing = True
            self._in_flight.settle_everything(self._closed())
            self._in_flight.lock.notify()
        self._in_flight.flush()
        self._thread.join(timeout_s if timeout_s is not None else 0)
        if timeout_s is None:
            self._wait_until_idle()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _wait_until_idle(self) -> None:
        """No longer than a batch or a preparation may take: one that never ends is not waited for."""
        while (self._thread.is_alive() or self._faults.is_preparing()) and not self.is_broken:
            self._thread.join(CLOSE_CHECK_S)
            with suppress(Unavailable):
                self._faults.check()

    def _refuse_if_ended(self) -> None:
        self._faults.refuse()
        if self._closing:
            raise self._closed()

    def _closed(self) -> Unavailable:
        return Unavailable(f"stage {self.identity.stage} is shutting down; try again", retry_after_s=RETRY_AFTER_CLOSE_S)

    def _prepare_soon(self, work: Work) -> None:
        """Once a thread is free and it is its turn. Under the lock."""
        self._in_flight.to_prepare.add(work.id)
        try:
            self._pool.submit(self._prepare_next)
        except RuntimeError as error:  # the system has no thread for it, and there is none yet
            why = f"there is no thread to prepare anything for stage {self.identity.stage}; try again"
            self._in_flight.fail(work, Unavailable(why, retry_after_s=RETRY_AFTER_CLOSE_S, detail=str(error)))

    # ---- a pool's thread ----

    def _prepare_next(self) -> None:
        """Whatever is next by now: what this was called for may have ended, or be prepared by another thread."""
        with self._in_flight.lock:
            began = self._in_flight.now()
            entry = self._in_flight.to_prepare.begin_next(began)
            if entry is not None:
                entry.work.began_alone = self._in_flight.num_prepared_or_preparing() == 1
        if entry is None:
            return
        try:
            self._prepare(entry.work)
        finally:
            with self._in_flight.lock:
                self._in_flight.to_prepare.ended(entry.tenant, self._in_flight.now() - began)

    def _prepare(self, work: Work) -> None:
        """From then on it may run. What can't be prepared fails alone."""
        if work.settled:
            return
        failure: TriptychError | None = None
        try:
            with self._faults.preparing(work), wanted_while(lambda: not work.settled), working_for(work.item.tenant):
                prepared = self._preparer.prepare(work.item.payload, work.inputs)
                share = self._share_of(prepared)
            with self._in_flight.lock:
                work.prepared = prepared
                self._in_flight.scheduler.waiting.ready(work.id, share.batch_key, share.cost)
                self._in_flight.lock.notify()
        except BaseException as error:  # nobody else would hear of it
            failure = as_stage_error(self.identity.stage, error, work.item)
        if failure is not None:  # what the error held is free by now
            self._not_prepared(work, failure)

    def _not_prepared(self, work: Work, failure: TriptychError) -> None:
        if isinstance(failure, OutOfMemory):
            self._faults.ran_out()
            if self._prepare_later(work):
                return
            failure = self._faults.too_large(work.cost)
        elif fault_of(failure) is Fault.DEVICE:
            self._faults.judge([work], failure)
        with self._in_flight.lock:
            self._in_flight.fail(work, failure)
        self._in_flight.flush()

    def _prepare_later(self, work: Work) -> bool:
        """Once something that may hold memory has ended. False: it had the device to itself."""
        with self._in_flight.lock:
            others = self._in_flight.num_prepared_or_preparing() - 1
            if work.settled or others > 0:
                self._in_flight.unprepared.append(work)
            elif not work.began_alone:  # whoever held it when it began has ended meanwhile
                self._prepare_soon(work)
            elif self._in_flight.unprepared and not work.was_alone:  # they hold nothing now: it is tried once more
                work.was_alone = True
                self._prepare_soon(work)
            else:
                return False
        return True

    def _prepare_again(self) -> None:
        """What could not be prepared, if anything has ended since. The engine's thread, after a turn."""
        with self._in_flight.lock:
            for work in self._in_flight.take_unprepared():
                self._prepare_soon(work)

    @abstractmethod
    def _share_of(self, prepared: Q) -> Share:
        """The batch key and the cost, now exactly."""

    # ---- the engine's thread ----

    @abstractmethod
    def _turn(self) -> None:
        """One batch or one step."""

    def _schedule(self) -> Batch[Work]:
        """What to run now, of what is prepared."""
        with self._in_flight.lock:
            batch = self._in_flight.scheduler.next_batch(self._in_flight.now())
            self._in_flight.expire(entry.work for entry in batch.expired)
        self._flush()
        return batch

    @abstractmethod
    def _still_works(self) -> bool:
        """Whether the device still does what it did well before. False where it never did anything well."""

    def _end(self) -> None:
        """Frees what is left, after the last turn."""

    def _has_work(self) -> bool:
        """Under the lock."""
        return self._in_flight.has_left() or self._in_flight.scheduler.has_work()

    def _spare_work_in_s(self) -> float:
        """In how many seconds a turn would do something that can wait until nothing else is to be done: 0, now; infinite, there is nothing.
        The engine's thread, not under the lock."""
        return math.inf

    def _wake(self) -> None:
        """Has the engine's thread look again whether there is such work. Any thread."""
        with self._in_flight.lock:
            self._woken = True
            self._in_flight.lock.notify()

    def _run_turns(self) -> None:
        while self._wait_for_work():
            self._faults.begin(self._in_flight.now())
            self._guarded(self._turn)
            self._guarded(lambda: self._faults.end_turn(self._still_works))
            self._prepare_again()
        self._faults.begin(self._in_flight.now())
        self._guarded(self._end)
        self._in_flight.flush()
        self._faults.end()
        if self._cores is not None:
            self._cores.close()

    def _wait_for_work(self) -> bool:
        """What can wait is done without a claim to cores: others compute with all of them meanwhile."""
        while True:
            spare_work_in_s = self._spare_work_in_s()
            with self._in_flight.lock:
                if self._closing or self.is_broken:
                    return False
                if self._has_work():
                    break
                if self._cores is not None:
                    self._cores.leave()
                if spare_work_in_s <= 0:
                    return True
                if not self._woken:
                    self._in_flight.lock.wait(None if math.isinf(spare_work_in_s) else spare_work_in_s)
                self._woken = False
        if self._cores is not None:
            self._cores.take()
        return True

    def _guarded(self, do: Callable[[], None]) -> None:
        """A stage's errors are handled where they arise. Of others, everything in flight fails, and the thread lives on."""
        try:
            do()
        except BaseException as error:
            logging.getLogger("triptych.stages").critical("engine of stage %s", self.identity.stage, exc_info=error)
            with self._in_flight.lock:
                self._in_flight.settle_everything(as_stage_error(self.identity.stage, error))
                self._in_flight.scheduler.clear()
        self._flush()

    def _flush(self) -> None:
        """Delivers what has been said, or will soon."""
        self._in_flight.flush()
