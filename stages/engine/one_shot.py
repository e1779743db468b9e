"""The turn of a device that runs batches: schedule, run, deliver. Items are prepared meanwhile, on a pool's threads (`base.py`).

Decides neither batches nor order (`scheduler.py`), nor what becomes of a batch that fails (`one_shot_faults.py`).
"""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar, Unpack

from cache.finite import is_finite
from stages.contract.errors import StageFailed, TriptychError
from stages.contract.faults import Fault, fault_of
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.recipe import Inputs, Payload, Recipe
from stages.contract.result import Result
from stages.contract.stage import OneShotStage, Share
from stages.engine.base import BaseEngine, EngineOptions
from stages.engine.one_shot_faults import BatchParts
from stages.engine.scheduling.scheduler import Batch, OneShotScheduler
from stages.engine.work import Work, as_stage_error

P = TypeVar("P", bound=Payload)
Q = TypeVar("Q")
V = TypeVar("V", bound=Result)


class OneShotEngine(BaseEngine[P, Q], Generic[P, Q, V]):
    """Runs one `OneShotStage`. Results are delivered with one call of `deliver` for a batch."""

    def __init__(
        self,
        stage: OneShotStage[P, Q, V],
        *,
        name: str,
        batch: BatchLimits = BatchLimits(),
        queue: QueueLimits = QueueLimits(),
        **options: Unpack[EngineOptions],
    ) -> None:
        self._stage = stage
        self._good: Q | None = None  # what has run well
        self._scheduler: OneShotScheduler[Work] = OneShotScheduler(batch, queue, name=name)
        super().__init__(stage, self._scheduler, name=name, **options)
        self._thread.start()

    @property
    def result_type(self) -> type[Result]:
        return self._stage.result_type

    def _needs_of(self, payload: P, inputs: Inputs) -> Sequence[Recipe[Any]]:
        return payload.needs()

    def _share_of(self, prepared: Q) -> Share:
        return Share(self._stage.batch_key(prepared), self._stage.cost(prepared))

    # ---- the engine's thread ----

    def _turn(self) -> None:
        """Schedule, run, deliver. What runs was prepared on a pool's thread."""
        began = self._in_flight.now()
        batch = self._schedule()
        parts, num_runs, went_well = BatchParts(batch.entries, self._in_flight, self._faults), 0, False
        self._share.begin(began)
        while part := parts.following():  # all of it, unless that fails
            self._in_flight.flush()  # what the parts before it gave
            num_runs += 1
            works = [entry.work for entry in part]
            results = self._run(works)
            if isinstance(results, TriptychError):
                parts.failed(part, results)
            elif (good := parts.went_well(part, results)) is not None:
                self._good, went_well = good.prepared, True
        seconds = self._share.end(self._in_flight.now())
        if batch.entries:
            self._complete(batch, seconds, went_well=went_well and num_runs == 1)
        self._in_flight.flush()  # only now: whoever gets an answer is told what is left to do here, and its own item is not

    def _run(self, works: Sequence[Work]) -> Sequence[V] | TriptychError:
        began = self._in_flight.now()
        self._faults.begin(began)
        try:
            results = self._stage.run([work.prepared for work in works])
            if len(results) == len(works):
                return results
            raise StageFailed(f"stage {self.identity.stage} gave {len(results)} results for {len(works)} items")
        except Exception as error:
            return as_stage_error(self.identity.stage, error, *(work.item for work in works))
        finally:
            with self._in_flight.lock:
                self._in_flight.count_run(works, began, self._in_flight.now() - began)

    def _complete(self, batch: Batch[Work], seconds: float, *, went_well: bool) -> None:
        with self._in_flight.lock:
            self._scheduler.complete([entry.id for entry in batch.entries], seconds, went_well=went_well)
            for entry in batch.entries:
                entry.work.prepared = None  # it may hold memory of the device

    def _still_works(self) -> bool:
        if self._good is None:
            return False
        self._faults.begin(self._in_flight.now())
        try:
            (result,) = self._stage.run([self._good])
            return is_finite(result.arrays())
        except Exception as error:
            return fault_of(error) is Fault.OUT_OF_MEMORY
