"""A stream's events on their way to whoever reads them: what has come since the last look, at the pace that was asked for.

Decides when events are handed over together, and that a failure is told after what came before it; what follows an end is not heard.
Knows no engine.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import suppress

from stages.contract.errors import TriptychError
from stages.contract.item import InputReceipts, StageReceipt, StreamEnd
from stages.contract.result import Result
from stages.host.held_receipts import HeldReceipt, handed_on


class EventFeed:
    """The `Outlet` of one stream. One event loop."""

    def __init__(self) -> None:
        self._inputs: list[HeldReceipt] = []
        self._events: list[object] = []
        self._error: TriptychError | None = None
        self._news, self._ended = asyncio.Event(), asyncio.Event()

    def at_hand(self, receipts: Sequence[HeldReceipt]) -> None:
        """To be told with what comes next: by itself it is no news."""
        self._inputs.extend(receipts)

    def events(self, events: Sequence[object]) -> None:
        if not self._ended.is_set():
            self._events.extend(events)
            self._news.set()

    def done(self, value: Result | None, receipt: StageReceipt) -> None:
        self.events([StreamEnd(receipt)])
        self._ended.set()

    def failed(self, error: TriptychError) -> None:
        if not self._ended.is_set():
            self._error = error
            self._news.set()
            self._ended.set()

    async def take(self, within_s: float) -> Sequence[object]:
        """At least one event, with all that come in the next `within_s` or until the end. Raises how the row failed, after its
        last event."""
        await self._news.wait()
        if within_s > 0 and not self._ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(None if math.isinf(within_s) else within_s):
                    await self._ended.wait()
        events = [*self._input_receipts(), *self._events]
        if not events and self._error is not None:
            raise self._error
        self._events = []
        if self._error is None:
            self._news.clear()
        return events

    def _input_receipts(self) -> Sequence[InputReceipts]:
        inputs, self._inputs = self._inputs, []
        return [InputReceipts(handed_on(inputs, time.monotonic()))] if inputs else []
