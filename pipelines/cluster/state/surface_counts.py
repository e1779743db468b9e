"""What every replica of the HTTP surface has counted, by way of the metrics table. Decides how often it is told; counts nothing."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.cluster.state.last_answer import LastAnswer
from pipelines.ingress.request.metrics import Counts
from stages.contract.errors import Unavailable

ANSWER_WITHIN_S = 2.0
TELL_AGAIN_S = 10.0  # well within what the table takes for a sign of life
log = logging.getLogger("triptych.surface")


class SurfaceCounts:
    """Implements `Surfaces`. `table`: the metrics table's handle; `replica`: this one's name. On one event loop."""

    def __init__(self, table: Any, replica: str) -> None:
        self._table, self.replica = table, replica
        self._own: Counts = ()
        self._numbers = itertools.count(1)
        self._answer = LastAnswer(self._exchange, whom="the metrics table", fresh_s=0.0, patience_s=ANSWER_WITHIN_S)
        self._telling: asyncio.Task[None] | None = None
        self._told: object = None
        self._told_at = float("-inf")

    async def exchange(self, own: Counts) -> Mapping[str, Counts]:
        """Every scrape asks: what another replica has told meanwhile may have been shown already, and must not be less here."""
        self._own, asked_at = own, time.monotonic()
        known = await self._answer.get()
        if known.age_s > time.monotonic() - asked_at:
            raise Unavailable("the counts of other replicas cannot be read now")
        return known.value

    async def _exchange(self) -> Mapping[str, Counts]:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await self._table.report_counts.remote(self.replica, next(self._numbers), self._own)
            return await self._table.counts.remote()

    def tell_soon(self, marker: object, counts: Callable[[], Counts]) -> None:
        """For who scrapes another replica. `marker`: another one whenever something was counted. Nobody waits for it."""
        is_new = marker != self._told or time.monotonic() - self._told_at > TELL_AGAIN_S
        if is_new and (self._telling is None or self._telling.done()):
            self._telling = asyncio.create_task(self._tell(marker, counts()))

    def close(self) -> None:
        if self._telling is not None:
            self._telling.cancel()

    async def _tell(self, marker: object, counts: Counts) -> None:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self._table.report_counts.remote(self.replica, next(self._numbers), counts)
            self._told, self._told_at = marker, time.monotonic()
        except Exception as error:  # the table is being replaced; counters are cumulative, so nothing is lost
            log.warning("counts of requests not reported: %s: %s", type(error).__name__, error)
