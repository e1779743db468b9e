"""What every replica last said, in one place: the counters of stages and of the HTTP surface's replicas for `/metrics`, what they have to
do and what callers wait for, for the scaler, and which settings the HTTP surface's replicas use.

Replicas write; the ingress, the scaler and `triptych deploy` read; nothing is decided here. Whoever has not reported for `stale_after_s`
is gone (scaled down or dead) and is forgotten. What can't be read, of another version, was not told; readers, too, leave that out.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pipelines.planning.scaling.observation import Told, WaitingFor
from stages.contract.item import StageMetrics
from stages.contract.message import ALL, Unread, message, readable_only, readable_values

R = TypeVar("R")


@message(droppable=[ALL])
@dataclass(frozen=True, slots=True)
class Refused:
    """Settings that were not taken."""

    version: str
    why: str


@message(droppable=[ALL])
@dataclass(frozen=True, slots=True)
class SettingsInUse:
    """Of one replica of the HTTP surface. `versions`: the current one last, before it those that still answer requests. `refused`: the
    newest settings; None: it took them."""

    versions: tuple[str, ...]
    refused: Refused | None = None


class MetricsTable:
    def __init__(self, stale_after_s: float = 30.0, now: Callable[[], float] = time.monotonic) -> None:
        self._stale_after_s, self._now = stale_after_s, now
        self._rows: dict[str, tuple[float, tuple[StageMetrics, ...]]] = {}
        self._settings: dict[str, tuple[float, SettingsInUse]] = {}
        self._told: dict[str, tuple[float, Told]] = {}
        self._waiting: dict[str, tuple[float, WaitingFor]] = {}
        self._counts: dict[str, tuple[float, tuple[int, Any]]] = {}

    async def report(self, replica: str, metrics: Sequence[StageMetrics], told: Told | None = None) -> None:
        """`told`: what it has to do, for the scaler."""
        self._rows[replica] = (self._now(), tuple(readable_only(metrics)))
        if told is not None and not isinstance(told, Unread):
            self._told[replica] = (self._now(), told)

    async def report_waiting(self, caller: str, waiting: WaitingFor) -> None:
        """What a process has for pools in which no replica takes it."""
        self._waiting[caller] = (self._now(), readable_values(waiting))

    async def told(self) -> tuple[dict[str, Told], list[WaitingFor]]:
        """By replica; and of every caller."""
        self._told, self._waiting = self._fresh(self._told), self._fresh(self._waiting)
        return {replica: told for replica, (_, told) in self._told.items()}, [each for _, each in self._waiting.values()]

    async def read(self) -> list[StageMetrics]:
        self._rows = self._fresh(self._rows)
        return [stage for _, stages in self._rows.values() for stage in stages]

    async def report_counts(self, replica: str, number: int, counts: Any) -> None:
        """What a replica of the HTTP surface has counted, since its start. `number`: counts up; what comes late changes nothing."""
        _, (latest, _) = self._counts.get(replica, (0.0, (0, None)))
        if number > latest:
            self._counts[replica] = (self._now(), (number, counts))

    async def counts(self) -> dict[str, Any]:
        """By replica."""
        self._counts = self._fresh(self._counts)
        return {replica: counts for replica, (_, (_, counts)) in self._counts.items()}

    async def report_settings(self, replica: str, settings: SettingsInUse) -> None:
        if not isinstance(settings, Unread):
            self._settings[replica] = (self._now(), settings)

    async def settings(self) -> dict[str, SettingsInUse]:
        """By replica."""
        self._settings = self._fresh(self._settings)
        return {replica: settings for replica, (_, settings) in self._settings.items()}

    def _fresh(self, rows: dict[str, tuple[float, R]]) -> dict[str, tuple[float, R]]:
        now = self._now()
        return {name: row for name, row in rows.items() if now - row[0] < self._stale_after_s}
