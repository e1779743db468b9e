"""Stages of both kinds on a device that only lets time pass: as long as its `Speed` says for what is in a batch or step."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
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


class _Sleeping:
    def __init__(self, speed: Speed, device: str) -> None:
        self._speed, self.device = speed, device

    def check(self, payload: Sleep) -> None: ...

    def weigh(self, payload: Sleep) -> float:
        return payload.amount_a_step

    def _let_pass(self, amount: float) -> None:
        wait_until(time.monotonic() + self._speed.step_s(amount))


class SleepingBatches(_Sleeping):
    """A `OneShotStage[Sleep, Sleep, Length]`."""

    result_type = Length

    def prepare(self, payload: Sleep, inputs: Inputs) -> Sleep:
        return payload

    def batch_key(self, item: Sleep) -> Hashable:
        return None

    def cost(self, item: Sleep) -> float:
        return item.amount_a_step

    def run(self, batch: Sequence[Sleep]) -> Sequence[Length]:
        self._let_pass(sum(item.work.amount for item in batch))
        return [Length(np.asarray(1)) for _ in batch]


@dataclass(slots=True)
class SleepingRow:
    payload: Sleep
    steps: int = 0


class SleepingRows(_Sleeping):
    """An `IterativeStage[Sleep, Sleep, SleepingRow]`. Its rows say nothing until they are done."""

    def needs(self, payload: Sleep, inputs: Inputs = NO_INPUTS) -> Sequence[Recipe[Any]]:
        return ()

    def prepare(self, payload: Sleep, inputs: Inputs) -> Sleep:
        return payload

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
        self._let_pass(sum(row.payload.amount_a_step for row in rows))
        for row in rows:
            row.steps += 1
        return [Stepped(done=row.steps >= row.payload.work.steps) for row in rows]

    def finish(self, row: SleepingRow) -> None: ...
