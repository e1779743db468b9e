"""What HTTP replicas tell each other of tenants: what they have charged, for quotas, and what was used, for daily totals.

Decides how often. Each process writes what it alone counts under a name of its own, and reads the others': so nothing is lost where two
write at once, and no request waits for the store. Quotas: every `SYNC_S`; in between n replicas may together let in n times what was left
of a quota (`quotas.py`). Totals: every `WRITE_S`, by so much a process that dies takes with it, and they stand for `KEEP_DAYS`. Without a
store that processes share (`cache.redis`) each counts alone, and what it counted ends with it. Values are sealed with the server's secret.
On one event loop.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from cache.store import Store
from pipelines.ingress.kept.kept_values import KeptValues, Owner
from pipelines.ingress.tenants.between_processes import GONE_S, BetweenProcesses, JsonObject
from pipelines.ingress.tenants.meter import Meter
from pipelines.ingress.tenants.quotas import Told
from pipelines.ingress.tenants.usage import KEEP_DAYS, Spent, days_before, together
from stages.concurrency.together import stopped
from stages.contract.errors import Overloaded, Unavailable

SYNC_S = 1.0
WRITE_S = 10.0
DAY_S = 86_400.0
QUOTAS = "quotas"


class SharedCounts:
    """`owner`: the server itself, with whose salt values are sealed; it may be set anew. `process`: this one's name, which no other has and
    none will."""

    def __init__(
        self,
        meter: Meter,
        values: KeptValues,
        owner: Owner,
        *,
        process: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._meter, self._values, self.owner = meter, values, owner
        self._between, self._clock = BetweenProcesses(process), clock
        self._heard_at = self._written_at = -math.inf
        self._written: dict[str, Mapping[str, Spent]] = {}
        self._tending: asyncio.Task[None] | None = None

    def tend(self) -> None:
        """Tells and hears from now on. Idempotent."""
        if self._tending is None or self._tending.done():
            self._tending = asyncio.create_task(self._tend())

    async def close(self) -> None:
        """What was used and not yet written is."""
        if self._tending is not None:
            await stopped(self._tending)
        with contextlib.suppress(Overloaded):
            await self.write_usage()

    @property
    def survives(self) -> bool:
        """Whether `usage` is of all processes, and outlives them."""
        return self._values.is_shared

    def last_days(self, num_days: int) -> Sequence[str]:
        """That end with today, the latest first."""
        return days_before(self._meter.wall_clock(), num_days)

    async def exchange(self) -> None:
        """Tells what this process has charged, and hears of the others. Raises `Unavailable`."""
        if not self._values.is_shared or not self._meter.quotas.limits:
            self._lose_others()
            return
        own, salt = self._meter.quotas.told(self._clock()), self.owner.salt
        try:
            others = await self._values.ask(lambda store: self._exchanged(store, own, salt))
        except Unavailable:
            if self._clock() - self._heard_at > GONE_S:
                self._lose_others()
            raise
        if self._clock() - self._heard_at > GONE_S:
            self._lose_others()  # of so long ago that what they charged since is hours' worth, perhaps
        self._meter.quotas.hear(others, self._clock())
        self._heard_at = self._clock()

    async def write_usage(self) -> None:
        """What this process has counted since it was last written. Raises `Unavailable`."""
        if not self._values.is_shared:
            return
        salt = self.owner.salt
        for day, tenants in list(self._meter.usage.of_days.items()):
            counted = dict(tenants)
            if counted != self._written.get(day):
                await self._values.ask(partial(self._write_day, day=day, counted=counted, salt=salt))
                self._written[day] = counted

    async def usage(self, days: Sequence[str]) -> Mapping[str, Mapping[str, Spent]]:
        """By day, then by tenant, of all processes. Raises `Unavailable`."""
        own = {day: dict(self._meter.usage.of(day)) for day in days}
        if not self._values.is_shared:
            return own
        salt = self.owner.salt
        told = await self._values.ask(lambda store: {day: self._between.read(store, _of(day), salt, _spent) for day in days})
        return {day: together([own[day], *told[day].values()]) for day in days}

    async def _tend(self) -> None:
        while True:
            with contextlib.suppress(Overloaded):  # whose connection says so in the log
                await self.exchange()
                if self._clock() - self._written_at >= WRITE_S:
                    self._written_at = self._clock()
                    await self.write_usage()
            await asyncio.sleep(SYNC_S)

    def _lose_others(self) -> None:
        if self._heard_at > -math.inf:
            self._heard_at = -math.inf
            self._meter.quotas.lose_others()

    def _exchanged(self, store: Store, own: Mapping[str, Told], salt: str) -> Mapping[str, Mapping[str, Told]]:
        document = {tenant: _told_numbers(told) for tenant, told in own.items()}
        self._between.write(store, QUOTAS, document, GONE_S, salt)
        return self._between.read(store, QUOTAS, salt, _told)

    def _write_day(self, store: Store, *, day: str, counted: Mapping[str, Spent], salt: str) -> None:
        document = {tenant: spent.document() for tenant, spent in counted.items()}
        self._between.write(store, _of(day), document, KEEP_DAYS * DAY_S, salt)


def _of(day: str) -> str:
    return f"usage:{day}"


def _told_numbers(told: Told) -> Sequence[float]:
    return [told.requests, told.device_s, told.requests_level, told.device_s_level, told.running]


def _told(document: JsonObject) -> Mapping[str, Told]:
    found: dict[str, Told] = {}
    for tenant, (requests, device_s, requests_level, device_s_level, running) in document.items():
        found[tenant] = Told(requests, device_s, requests_level, device_s_level, int(running))
    return found


def _spent(document: JsonObject) -> Mapping[str, Spent]:
    return {tenant: Spent.read(told) for tenant, told in document.items()}
