"""Tells the metrics table what callers of this process have for pools in which no replica takes it: all are full, or there are none, which
the scaler can learn of nobody else. Decides how often; tells nothing while there is nothing to tell."""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from pipelines.planning.scaling.observation import Waiting, WaitingFor
from pipelines.routing.table import Demand, table_of_this_process

PERIOD_S = 0.5
TELL_AGAIN_S = 10.0  # well within what the table takes for a sign of life
log = logging.getLogger("triptych.scaler")


class TellsWaiting:
    """`table`: the metrics table's handle; `caller`: this process."""

    def __init__(self, table: Any, caller: str) -> None:
        self._table, self._caller = table, caller
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """On the event loop; again, where it has ended."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._tell())

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _tell(self) -> None:
        told: WaitingFor = {}
        told_at = float("-inf")
        while True:
            waiting = unplaced(table_of_this_process().demand())
            if waiting != told or (waiting and time.monotonic() - told_at > TELL_AGAIN_S):
                try:
                    await self._table.report_waiting.remote(self._caller, waiting)
                    told, told_at = waiting, time.monotonic()
                except Exception as error:  # the table is being replaced; it is told again
                    log.warning("what waits is not reported: %s: %s", type(error).__name__, error)
            await asyncio.sleep(PERIOD_S)


def unplaced(demand: Mapping[tuple[str, str], Demand]) -> WaitingFor:
    """Of what was sent, what no replica has."""
    return {key: Waiting(one.num_unplaced, one.unplaced) for key, one in demand.items() if one.num_unplaced}
