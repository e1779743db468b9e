"""Entries of tenants, and what schedulers choose of them."""

import math
from collections.abc import Sequence

from stages.contract.limits import QueueLimits
from stages.contract.stage import Share
from stages.engine.scheduling.scheduler import Entry, IterativeScheduler, OneShotScheduler

ROOM = QueueLimits(10**6)


def entry(
    entry_id: str,
    tenant: str,
    key: str = "k",
    cost: float = 1.0,
    *,
    priority: int = 0,
    deadline: float = math.inf,
    arrival: float = 0.0,
    request: str = "",
) -> Entry[str]:
    return Entry(entry_id, entry_id, key, cost, priority, deadline, arrival, tenant=tenant, request=request)


def ids(chosen: Sequence[Entry[str]]) -> list[str]:
    return [each.id for each in chosen]


def batch(scheduler: OneShotScheduler[str], now: float = 0.0) -> list[str]:
    """Takes as many seconds as it costs."""
    chosen = scheduler.next_batch(now)
    scheduler.complete(ids(chosen.entries), chosen.cost)
    scheduler.check_integrity()
    return ids(chosen.entries)


def start_all(scheduler: IterativeScheduler[str], now: float = 0.0) -> list[str]:
    started = []
    while (first := scheduler.next_to_start(now)) is not None:
        assert scheduler.start(first.id, Share(first.batch_key, first.cost))
        started.append(first.id)
    return started
