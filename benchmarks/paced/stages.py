"""Stages whose work costs a known time and nothing else, so that what remains is Triptych's own: real stages of both kinds, with
a device that only lets time pass. What they did, and when, is written to a `StepLog`.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TextIO

import numpy as np
from numpy.typing import NDArray

from stages.contract.recipe import NO_INPUTS, Inputs, Recipe
from stages.contract.result import Result
from stages.contract.stage import Share, Stepped
from stages.llm.messages import Generate, GenerationEnd, TokenDelta


@dataclass(frozen=True, slots=True)
class Step:
    """`rows`: the seeds of the requests that took part. Times of `time.monotonic`, which all processes of a machine share."""

    began: float
    ended: float
    rows: tuple[int, ...]


class StepLog:
    """A line for every step, in a file that the benchmark reads afterwards."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("w", buffering=1)

    def add(self, step: Step) -> None:
        self._file.write(f"{step.began!r} {step.ended!r} {' '.join(map(str, step.rows))}\n")


def read_steps(path: Path) -> list[Step]:
    steps = []
    for line in path.read_text().splitlines():
        began, ended, *rows = line.split(" ")
        steps.append(Step(float(began), float(ended), tuple(map(int, rows))))
    return steps


@dataclass(slots=True)
class PacedRow:
    seed: int
    num_tokens: int
    made: int = 0


class PacedLlm:
    """An `IterativeStage[Generate, None, PacedRow]`: a step waits for `step_s` and gives each row a token. A request's `seed` names it
    in the log. Its prompt costs nothing."""

    device = "paced"

    def __init__(self, step_s: float, log: Path) -> None:
        self._step_s, self._log = step_s, StepLog(log)

    def check(self, payload: Generate) -> None: ...

    def weigh(self, payload: Generate) -> float:
        return 1.0

    def needs(self, payload: Generate, inputs: Inputs = NO_INPUTS) -> Sequence[Recipe[Any]]:
        return ()

    def prepare(self, payload: Generate, inputs: Inputs) -> None: ...

    def share(self, prepared: None) -> Share:
        return Share(None, 1.0)

    def can_start(self, payload: Generate) -> bool:
        return True

    def start(self, payload: Generate, prepared: None) -> PacedRow:
        row = PacedRow(payload.sampling.seed or 0, payload.sampling.max_tokens)
        row.made = len(payload.so_far.token_ids)
        return row

    def suspend(self, row: PacedRow) -> int:
        return row.made

    def resume(self, payload: Generate, prepared: None, suspended: int) -> PacedRow:
        row = self.start(payload, prepared)
        row.made = suspended
        return row

    def batch_key(self, row: PacedRow) -> Hashable:
        return None

    def cost(self, row: PacedRow) -> float:
        return 1.0

    def step(self, rows: Sequence[PacedRow]) -> Sequence[Stepped]:
        began = time.monotonic()
        wait_until(began + self._step_s)
        stepped = [_advance(row) for row in rows]
        self._log.add(Step(began, time.monotonic(), tuple(row.seed for row in rows)))
        return stepped

    def finish(self, row: PacedRow) -> None: ...


@dataclass(frozen=True, slots=True)
class Length(Result):
    """`length`: [] int64."""

    length: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Measure:
    """For a `PacedEncoder`."""

    makes: ClassVar[type[Result]] = Length
    data: bytes

    def needs(self) -> Sequence[Recipe[Any]]:
        return ()


class PacedEncoder:
    """A `OneShotStage[Measure, bytes, Length]`: a batch costs `run_s`, however many items it holds."""

    device = "paced"
    result_type = Length

    def __init__(self, run_s: float) -> None:
        self._run_s = run_s

    def check(self, payload: Measure) -> None: ...

    def weigh(self, payload: Measure) -> float:
        return 1.0

    def prepare(self, payload: Measure, inputs: Inputs) -> bytes:
        return payload.data

    def batch_key(self, item: bytes) -> Hashable:
        return None

    def cost(self, item: bytes) -> float:
        return 1.0

    def run(self, batch: Sequence[bytes]) -> Sequence[Length]:
        wait_until(time.monotonic() + self._run_s)
        return [Length(np.asarray(len(item))) for item in batch]


def wait_until(moment: float) -> None:
    """Sleeps, as a thread does that waits for a GPU: the processor is free for others."""
    while (left := moment - time.monotonic()) > 0:
        time.sleep(left)


def _advance(row: PacedRow) -> Stepped:
    row.made += 1
    delta = TokenDelta(f" {row.made}", 1, token_ids=(row.made,))
    if row.made < row.num_tokens:
        return Stepped([delta])
    return Stepped([delta, GenerationEnd("length", row.made)], done=True)
