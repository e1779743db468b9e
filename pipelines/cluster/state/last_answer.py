"""What somebody far away last said: one question in flight for everybody who wants to know, and nobody waits long for it.

Decides who waits, and when it is asked again. Knows nothing of what is asked.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from stages.contract.errors import Unavailable

T = TypeVar("T")
log = logging.getLogger("triptych.surface")


@dataclass(frozen=True, slots=True)
class Known(Generic[T]):
    """`age_s`: how long ago it was said."""

    value: T
    age_s: float


class LastAnswer(Generic[T]):
    """On one event loop. `whom`: who is asked, for messages. `now`: a monotonic clock in seconds.

    A question whose answer doesn't come goes on alone: it is not asked a second time beside itself. Once one has failed, or outlasted
    `patience_s`, nobody waits for the next: what was known is told at once, until an answer comes again.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[T]],
        *,
        whom: str,
        fresh_s: float,
        patience_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._whom, self._now = ask, whom, now
        self._fresh_s, self._patience_s = fresh_s, patience_s
        self._question: asyncio.Task[None] | None = None
        self._asked_at = float("-inf")
        self._answer: tuple[T, float] | None = None
        self._is_silent = False

    async def get(self) -> Known[T]:
        """The answer: at most `fresh_s` old, or the last there was. Raises `Unavailable` where there has been none yet."""
        if self._now() - self._asked_at >= self._fresh_s and (self._question is None or self._question.done()):
            self._asked_at, self._question = self._now(), asyncio.create_task(self._put_question())
        await self._wait()
        if self._answer is None:
            raise Unavailable(f"{self._whom} does not answer; try again", retry_after_s=max(self._fresh_s, 1.0))
        value, said_at = self._answer
        return Known(value, self._now() - said_at)

    async def _wait(self) -> None:
        if self._question is None or self._question.done() or self._is_silent:
            return
        _, pending = await asyncio.wait({self._question}, timeout=self._asked_at + self._patience_s - self._now())
        if pending:
            self._fell_silent("no answer yet")

    async def _put_question(self) -> None:
        try:
            answer = await self._ask()
        except Exception as error:  # whatever it is: what is known stays so
            self._fell_silent(f"{type(error).__name__}: {error}")
            return
        if self._is_silent:
            log.info("%s answers again", self._whom)
        self._answer, self._is_silent = (answer, self._now()), False

    def _fell_silent(self, why: str) -> None:
        if not self._is_silent:
            log.warning("%s does not answer (%s); what it said last is told until it does", self._whom, why)
        self._is_silent = True
