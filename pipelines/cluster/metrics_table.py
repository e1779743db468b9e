"""The latest counters of every replica, in one place for `/metrics`. Replicas write, the ingress reads; nothing is decided here.

A replica that has not reported for `stale_after_s` is gone (scaled down or dead) and is forgotten.
"""

import time
from collections.abc import Sequence

from stages.contract.item import StageMetrics


class MetricsTable:
    def __init__(self, stale_after_s: float = 30.0) -> None:
        self._stale_after_s = stale_after_s
        self._rows: dict[str, tuple[float, tuple[StageMetrics, ...]]] = {}

    async def report(self, replica: str, metrics: Sequence[StageMetrics]) -> None:
        self._rows[replica] = (time.monotonic(), tuple(metrics))

    async def read(self) -> list[StageMetrics]:
        now = time.monotonic()
        self._rows = {name: row for name, row in self._rows.items() if now - row[0] < self._stale_after_s}
        return [stage for _, stages in self._rows.values() for stage in stages]
