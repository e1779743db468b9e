"""Schedulers whose invariants are checked after every test."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stages.contract.limits import BatchLimits, QueueLimits
from stages.engine.scheduling.scheduler import IterativeScheduler, OneShotScheduler, Scheduler
from tests.stages.engine.scheduling.entries import Iterative, OneShot


@pytest.fixture
def one_shot() -> Iterator[OneShot]:
    yield from _checked(lambda batch, queue: OneShotScheduler(batch, queue))


@pytest.fixture
def iterative() -> Iterator[Iterative]:
    yield from _checked(lambda batch, queue: IterativeScheduler(batch, queue))


def _checked(make: Callable[[BatchLimits, QueueLimits], Any]) -> Iterator[Callable[..., Any]]:
    made: list[Scheduler[str]] = []

    def build(batch: BatchLimits = BatchLimits(), queue: QueueLimits = QueueLimits()) -> Any:
        made.append(make(batch, queue))
        return made[-1]

    yield build
    for each in made:
        each.check_integrity()
