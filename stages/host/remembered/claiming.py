"""Whether a result that is nowhere yet is for this process to make, or is being made by another one at this moment.

Decides how long another is waited for, how often it is asked meanwhile, and that a claim of this process's stands for as long as it
is at it. What a claim is, is `cache/claims.py`. Knows no stages and no names.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import Context

from cache.claims import CLAIM_S, RENEW_S, BeingMade, Claim
from cache.tier import Label
from cache.tiered import Found, TieredCache
from stages.host.remembered.cache_threads import CacheThreads

FIRST_PAUSE_S, LONGEST_PAUSE_S, GROWTH = 0.01, 0.25, 1.5
TIMES_AS_USUAL = 4
LONGEST_WAIT_S = 30.0  # also where nobody knows how long it usually takes
SHORTEST_WAIT_S = 2 * CLAIM_S
"""So that a claim whose owner has died runs out, and one other makes the result, rather than everyone who waited."""


PART_OF_WHAT_IS_LEFT = 0.5  # the rest is for making it here after all


def patience_s(usual_s: float | None, left_s: float | None) -> float:
    """How long another process is waited for. `usual_s`: what making such a result takes here, queue included; None: none was made.
    `left_s`: until whoever wants it gives up; None: never."""
    patience_s = LONGEST_WAIT_S
    if usual_s is not None:
        patience_s = min(LONGEST_WAIT_S, max(SHORTEST_WAIT_S, TIMES_AS_USUAL * usual_s))
    return patience_s if left_s is None else min(patience_s, PART_OF_WHAT_IS_LEFT * left_s)


def pauses() -> Iterator[float]:
    """Seconds between one asking and the next."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(LONGEST_PAUSE_S, GROWTH * pause_s)


class Claiming:
    """For one event loop. `pause` and `now`: seconds."""

    def __init__(
        self,
        cache: TieredCache,
        threads: CacheThreads,
        *,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache, self._threads = cache, threads
        self._pause, self._now = pause, now
        self._held: set[Claim] = set()
        self._renewing: asyncio.Task[None] | None = None

    async def look_up(
        self, key: str, label: Label, patience_s: float, waited: Callable[[float], object]
    ) -> Found | Claim | None:
        """The value; or a claim to it, where it is for the caller to make it and others may wait: to be given to `holding`. None: it is
        to be made, whatever others do. `waited`: told for how many seconds another was waited for, if one was."""
        asked = self._now()
        answer = await self._threads.get_or_claim(key, label)
        if not isinstance(answer, BeingMade):
            return answer
        began = self._now()
        try:
            return await self._wait(key, label, began + patience_s, began - asked)
        finally:
            waited(self._now() - began)

    async def _wait(self, key: str, label: Label, until: float, answer_s: float) -> Found | Claim | None:
        """`answer_s`: how long the last answer took. It is asked no more often, or who waits would keep the threads from everyone else."""
        for pause_s in pauses():
            left_s = until - self._now()
            if left_s <= 0:
                break
            await self._pause(min(max(pause_s, answer_s), left_s))
            asked = self._now()
            answer = await self._threads.get_or_claim(key, label)
            if not isinstance(answer, BeingMade):
                return answer
            answer_s = self._now() - asked
        return None

    @contextmanager
    def holding(self, claim: Claim | None) -> Iterator[None]:
        """The value is made and put inside: the claim stands for as long. Where it fails, or is called off, the claim ends with it."""
        if claim is None:
            yield
            return
        self._hold(claim)
        try:
            yield
        except BaseException:
            self._cache.let_go(claim)
            raise
        else:
            self._cache.not_kept(claim)  # unless it was put
        finally:
            self._release(claim)

    def _hold(self, claim: Claim) -> None:
        self._held.add(claim)
        if self._renewing is None:
            self._renewing = asyncio.get_running_loop().create_task(self._renew(), context=Context())

    def _release(self, claim: Claim) -> None:
        self._held.discard(claim)
        if self._renewing is not None and not self._held:
            self._renewing.cancel()
            self._renewing = None

    async def _renew(self) -> None:
        while True:
            await self._pause(RENEW_S)
            self._cache.renew_claims()
