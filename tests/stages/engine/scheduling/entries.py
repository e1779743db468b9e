"""Entries of schedulers."""

import math
from collections.abc import Callable

from stages.contract.stage import Share
from stages.engine.scheduling.scheduler import Batch, Entry, IterativeScheduler, OneShotScheduler

OneShot = Callable[..., OneShotScheduler[str]]
Iterative = Callable[..., IterativeScheduler[str]]


def entry(
    entry_id: str,
    key: str = "k",
    cost: float = 1.0,
    *,
    priority: int = 0,
    deadline: float = math.inf,
    arrival: float = 0.0,
) -> Entry[str]:
    return Entry(entry_id, entry_id, key, cost, priority, deadline, arrival)


def ids(batch: Batch[str]) -> list[str]:
    return [each.id for each in batch.entries]


def started(scheduler: IterativeScheduler[str], *entries: Entry[str]) -> None:
    for each in entries:
        scheduler.add(each)
        assert scheduler.start(each.id, Share(each.batch_key, each.cost))
