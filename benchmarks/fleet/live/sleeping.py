"""Stages of both kinds on a device that only lets time pass: as long as its `Speed` says for what is in a batch or step. They count by how
much steps, and what lies between two of them, take longer than that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from benchmarks.paced.stages import Length, wait_until
from stages.contract.cost import Speed
from stages.contract.recipe import NO_INPUTS, Inputs, Recipe
from stages.contract.result import Result
from stages.contract.stage import Share, Stepped
from stages.contract.work import Work


@dataclass(frozen=True, slots=True)
class Sleep:
    """`work`: what a device is busy with."""

    makes: ClassVar[type[Result]] = Length
    work: Work

    def needs(self) -> Sequence[Recipe[Any]]:
        return ()

    @property
    def amount_a_step(self) -> float:
        return self.work.amount / self.work.steps


@dataclass(frozen=True, slots=True)
class Longer:
    """Seconds by which steps took longer than their device, in all, and how many steps."""

    seconds: float = 0.0
    num_steps: int = 0

    @property
    def each_s(self) -> float:
        """On average of all steps; never less than nothing."""
        return max(0.0, self.seconds / self.num_steps) if self.num_steps else 0.0

    def __add__(self, other: Longer) -> Longer:
        return Longer(self.seconds + other.seconds, self.num_steps + other.num_steps)

    def __sub__(self, earlier: Longer) -> Longer:
        return Longer(self.seconds - earlier.seconds, self.num_steps - earlier.num_steps)


class StepWatch:
    """How much longer steps take than their device: from the end of the one before where somebody was there to be stepped all the time,
    else from their own beginning. `now`: seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._lock = now, threading.Lock()
        self._num_present = 0
        self._ready_at: float | None = None  # the last step's end, if somebody was there then
        self.longer = Longer()

    def came(self) -> None:
        """Somebody is there. On any thread."""
        with self._lock:
            self._num_present += 1

    def stepped(self, began: float, device_s: float, *, num_done: int) -> None:
        """A step that began then, and of which the device took so long, has ended, and with it so many."""
        now = self._now()
        since = began if self._ready_at is None else self._ready_at
        self.longer = Longer(self.longer.seconds + now - since - device_s, self.longer.num_steps + 1)
        with self._lock:
            self._num_present -= num_done
            self._ready_at = now if self._num_present else None


class _Sleeping:
    def __init__(self, speed: Speed, device: str) -> None:
        self._speed, self.device = speed, device
        self.watch = StepWatch()

    def check(self, payload: Sleep) -> None: ...

    def weigh(self, payload: Sleep) -> float:
        return payload.amount_a_step

    def prepare(self, payload: Sleep, inputs: Inputs) -> Sleep:
        self.watch.came()
        return payload

    def _let_pass(self, amount: float) -> tuple[float, float]:
        """When that began, and how long it is to take."""
        began, device_s = time.monotonic(), self._speed.step_s(amount)
        wait_until(began + device_s)
        return began, device_s


class SleepingBatches(_Sleeping):
    """A `OneShotStage[Sleep, Sleep, Length]`."""

    result_type = Length

    def batch_key(self, item: Sleep) -> Hashable:
        return None

    def cost(self, item: Sleep) -> float:
        return item.amount_a_step

    def run(self, batch: Sequence[Sleep]) -> Sequence[Length]:
        passed = self._let_pass(sum(item.work.amount for item in batch))
        self.watch.stepped(*passed, num_done=len(batch))
        return [Length(np.asarray(1)) for _ in batch]


@dataclass(slots=True)
class SleepingRow:
    payload: Sleep
    steps: int = 0


class SleepingRows(_Sleeping):
    """An `IterativeStage[Sleep, Sleep, SleepingRow]`. Its rows say nothing until they are done."""

    def needs(self, payload: Sleep, inputs: Inputs = NO_INPUTS) -> Sequence[Recipe[Any]]:
        return ()

    def share(self, prepared: Sleep) -> Share:
        return Share(None, prepared.amount_a_step)

    def can_start(self, payload: Sleep) -> bool:
        return True

    def start(self, payload: Sleep, prepared: Sleep) -> SleepingRow:
        return SleepingRow(payload)

    def suspend(self, row: SleepingRow) -> int:
        return row.steps

    def resume(self, payload: Sleep, prepared: Sleep, suspended: int) -> SleepingRow:
        return SleepingRow(payload, suspended)

    def batch_key(self, row: SleepingRow) -> Hashable:
        return None

    def cost(self, row: SleepingRow) -> float:
        return row.payload.amount_a_step

    def step(self, rows: Sequence[SleepingRow]) -> Sequence[Stepped]:
        passed = self._let_pass(sum(row.payload.amount_a_step for row in rows))
        for row in rows:
            row.steps += 1
        stepped = [Stepped(done=row.steps >= row.payload.work.steps) for row in rows]
        self.watch.stepped(*passed, num_done=sum(one.done for one in stepped))
        return stepped

    def finish(self, row: SleepingRow) -> None: ...
