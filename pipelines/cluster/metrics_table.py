"""What every replica last said, in one place: the counters of stages for `/metrics`, and which settings the HTTP surface's replicas use.

Replicas write; the ingress and `triptych deploy` read; nothing is decided here. A replica that has not reported for `stale_after_s` is
gone (scaled down or dead) and is forgotten.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from stages.contract.item import StageMetrics

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Refused:
    """Settings that were not taken."""

    version: str
    why: str


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

    async def report(self, replica: str, metrics: Sequence[StageMetrics]) -> None:
        self._rows[replica] = (self._now(), tuple(metrics))

    async def read(self) -> list[StageMetrics]:
        self._rows = self._fresh(self._rows)
        return [stage for _, stages in self._rows.values() for stage in stages]

    async def report_settings(self, replica: str, settings: SettingsInUse) -> None:
        self._settings[replica] = (self._now(), settings)

    async def settings(self) -> dict[str, SettingsInUse]:
        """By replica."""
        self._settings = self._fresh(self._settings)
        return {replica: settings for replica, (_, settings) in self._settings.items()}

    def _fresh(self, rows: dict[str, tuple[float, R]]) -> dict[str, tuple[float, R]]:
        now = self._now()
        return {name: row for name, row in rows.items() if now - row[0] < self._stale_after_s}
