"""How an engine's answers reach whoever asked: as calls on a receiver, several at a time.

Decides on which thread receivers are called, and that a whole batch costs one wake-up of the event loop. Knows no stage.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

Call = Callable[[], None]
Deliver = Callable[[Sequence[Call]], None]
"""Makes calls, in order, on the thread of its choice. Never raises, whatever the calls do."""


def deliver_here(calls: Sequence[Call]) -> None:
    """Makes the calls on the thread that it is called on, which may be the engine's."""
    for call in calls:
        try:
            call()
        except Exception:
            logging.getLogger("triptych.stages").exception("a receiver failed")


class LoopDelivery:
    """Makes the calls on an event loop's thread, with one wake-up for all of them.

    The loop is bound when the first item comes: engines are made before any loop runs.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __call__(self, calls: Sequence[Call]) -> None:
        if self._loop is None or not calls:
            return
        try:
            self._loop.call_soon_threadsafe(deliver_here, calls)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            logging.getLogger("triptych.stages").debug("%d answers came after the event loop had closed", len(calls))
