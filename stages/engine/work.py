"""One submitted item on its way through an engine: what it waits for, where its time goes, and the errors that tell so.

Decides what a receipt says. Knows no thread: the engine that owns a `Work` changes it under its own lock.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stages.contract.engine import EngineIdentity, Receiver
from stages.contract.errors import DeadlineExceeded, OutOfMemory, StageFailed, TriptychError
from stages.contract.faults import Fault, fault_of
from stages.contract.item import Item, StageReceipt
from stages.contract.recipe import NO_INPUTS, Inputs


@dataclass(frozen=True, slots=True)
class Clock:
    """`monotonic` measures; `wall` is what deadlines are given in. Seconds."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time

    def to_monotonic(self, deadline: float) -> float:
        return deadline if math.isinf(deadline) else self.monotonic() + (deadline - self.wall())


@dataclass(slots=True, eq=False)
class Work:
    """`id` is unique in the engine. `prepared` is what `prepare` made of the payload and the `inputs` at hand; `row`, the running
    one, where it `has_row`; `suspended`, where it ran and had to make way, what it goes on from. `cost`: as it was weighed
    before it was prepared. `expected_s`: how long it was expected to take when it came (None: nobody knew). `found_nothing`: nobody waited
    or ran then; `is_heavy`: its tenant had more than its part. Times are monotonic."""

    id: str
    item: Item[Any]
    receiver: Receiver
    submitted_at: float
    deadline: float
    inputs: Inputs = NO_INPUTS
    cost: float = 0.0
    expected_s: float | None = None
    found_nothing: bool = False
    is_heavy: bool = False
    num_misses: int = 0  # how often inputs were missing after all
    prepared: Any = None
    began_alone: bool = False  # to be prepared: nothing else could hold memory
    was_alone: bool = False  # when its preparing ran out of memory
    row: Any = None
    has_row: bool = False
    suspended: Any = None
    was_suspended: bool = False
    settled: bool = False  # `done` or `failed` is on its way; nothing more may be said
    failed: bool = False
    started_at: float | None = None
    told_at: float | None = None  # when it last said something
    run_s: float = 0.0
    device_s: float = 0.0
    batch_items: int = 0
    steps: int = 0

    def take_row(self) -> Any:
        """The row, to be suspended or freed: it is nobody else's from now on."""
        row, self.row, self.has_row = self.row, None, False
        return row

    def count_run(self, began: float, seconds: float, num_items: int) -> None:
        """It took part in a batch or step of `num_items` that began at `began` and kept the device busy for `seconds`."""
        if self.started_at is None:
            self.started_at = began
        self.run_s = began + seconds - self.started_at
        self.device_s += seconds / num_items
        self.batch_items += num_items
        self.steps += 1

    @property
    def ran_alone(self) -> bool:
        """In all its steps so far."""
        return self.batch_items == self.steps

    def receipt(self, engine: EngineIdentity) -> StageReceipt:
        """`queue_s` is from submission to the first batch or start (with preparation), `run_s` from then to the last step."""
        return StageReceipt(
            stage=engine.stage,
            replica=engine.replica,
            device=engine.device,
            dtype=engine.dtype,
            queue_s=max(0.0, (self.started_at or self.submitted_at) - self.submitted_at),
            run_s=self.run_s,
            device_s=self.device_s,
            batch_size=self.batch_items / self.steps if self.steps else 0.0,
            steps=self.steps,
        )

    def too_late(self, stage: str, now: float) -> DeadlineExceeded:
        """Says where the time went."""
        if self.started_at is None:
            where = f"it waited {now - self.submitted_at:.1f} s in the queue of stage {stage} and never ran"
        else:
            waited, ran = self.started_at - self.submitted_at, now - self.started_at
            where = f"it waited {waited:.1f} s in the queue of stage {stage}, then ran {ran:.1f} s there ({self.steps} steps)"
        return DeadlineExceeded(f"the request's time is up: {where}")


def _all(field: str, items: Sequence[Item[Any]]) -> str:
    return ",".join(sorted({getattr(item, field) for item in items}))


def as_stage_error(stage: str, error: BaseException, *items: Item[Any]) -> TriptychError:
    """The error as one requester sees it: a copy of one of ours, anything else as `StageFailed` with what it said for the log only.
    A failure is logged here, once, with traceback and with the items that it fails (an item's id begins with its request's).

    Tracebacks are dropped: their frames would keep tensors alive, for as long as the error lives.
    """
    fault = fault_of(error)
    if fault is Fault.OUT_OF_MEMORY and not isinstance(error, TriptychError):
        return OutOfMemory(f"stage {stage} ran out of memory", detail=f"{type(error).__name__}: {error}")
    is_known = isinstance(error, TriptychError) and (not isinstance(error, StageFailed) or error.fault is not None)
    if not is_known and not isinstance(error, OutOfMemory):
        failed = ", ".join(item.id for item in items) or "no item"
        told = {"stage": stage, "request_id": _all("request", items), "tenant": _all("tenant", items)}
        logging.getLogger("triptych.stages").error("stage %s failed on %s", stage, failed, exc_info=error, extra=told)
    if not isinstance(error, TriptychError):
        failure: TriptychError = StageFailed(f"stage {stage} failed on this item", detail=f"{type(error).__name__}: {error}")
    else:
        failure = error.with_traceback(None).for_request()
    if isinstance(failure, StageFailed):
        failure.fault = fault.value  # its text may quote anything
    return failure
