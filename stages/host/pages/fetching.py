"""Pages on their way from the cache, each once however many want it.

Decides who shares a fetch, and what becomes of one that nobody waits for any more. Knows no stage and not what a page is for.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cache.tier import Label
from cache.tiered import MEMORY, Found
from stages.concurrency.thread_pool import TENANT
from stages.contract.errors import Cancelled
from stages.host.remembered.cache_threads import CacheThreads
from stages.host.remembered.single_flight import Flight

Observe = Callable[[str, int, int, float], None]
"""From a tier, so many bytes came, and so many pages didn't, after so many seconds."""

Pages = Mapping[str, Found]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came in time. `begun`: the keys of what this item was the first to ask for. `is_late`: something didn't."""

    found: Mapping[str, Found]
    begun: frozenset[str]
    is_late: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one item wants: `keys` by the tier that is said to have them."""

    keys: Mapping[str, Sequence[str]]
    label: Label
    tenant: str
    observe: Observe


@dataclass(slots=True)
class _Waiting:
    flights: dict["Flight[Pages]", "asyncio.Future[Pages]"] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)


class PageFetching:
    """On one event loop."""

    def __init__(self, cache: CacheThreads) -> None:
        self._cache = cache
        self._flights: dict[str, Flight[Pages]] = {}  # by key

    async def fetch(self, wanted: Wanted, within_s: float) -> Fetched:
        """What is in memory at once, for the rest it waits no longer than that. Never raises, but for being cancelled."""
        found = self._from_memory(wanted)
        waiting = self._joined(wanted, found)
        if not waiting.flights:
            return Fetched(found, frozenset(), is_late=False)
        try:
            await asyncio.wait(waiting.flights.values(), timeout=within_s)
        finally:
            for flight, waiter in waiting.flights.items():
                flight.leave(waiter)
        for waiter in waiting.flights.values():
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                found.update(waiter.result())
        is_late = not all(waiter.done() for waiter in waiting.flights.values())
        return Fetched(found, frozenset(waiting.begun), is_late)

    async def settled(self) -> None:
        """Returns once nothing is being fetched."""
        while self._flights:
            await next(iter(self._flights.values())).ended()

    def call_off(self) -> None:
        """Whoever waits goes on without."""
        for flight in set(self._flights.values()):
            flight.call_off(Cancelled("pages are no longer fetched here"))

    def _from_memory(self, wanted: Wanted) -> dict[str, Found]:
        began, keys = time.monotonic(), wanted.keys.get(MEMORY, ())
        found = dict(self._cache.get_near(keys, wanted.label)) if keys else {}
        if found:
            wanted.observe(MEMORY, sum(value.bytes for value in found.values()), 0, time.monotonic() - began)
        return found

    def _joined(self, wanted: Wanted, found: Mapping[str, Found]) -> _Waiting:
        """What memory has lost since is asked for with the rest."""
        waiting = _Waiting()
        for tier, wanted_there in wanted.keys.items():
            keys = [key for key in wanted_there if key not in found]
            new = [key for key in keys if key not in self._flights or self._flights[key].has_failed]
            if new:
                self._begin(tier, new, wanted)
                waiting.begun.update(new)
            for flight in dict.fromkeys(self._flights[key] for key in keys):
                if flight not in waiting.flights:
                    waiter: asyncio.Future[Pages] = asyncio.get_running_loop().create_future()
                    waiting.flights[flight] = waiter
                    flight.join(waiter)
        return waiting

    def _begin(self, tier: str, keys: Sequence[str], wanted: Wanted) -> None:
        async def compute(flight: Flight[Pages]) -> None:
            TENANT.set(wanted.tenant)  # the context is the flight's own
            began = time.monotonic()
            found = await self._cache.get_many(keys, wanted.label)
            flight.set_result(found)
            if {value.tier for value in found.values()} <= {tier}:  # or the time says nothing of any
                num_bytes = sum(value.bytes for value in found.values())
                wanted.observe(tier, num_bytes, len(keys) - len(found), time.monotonic() - began)

        flight = Flight(compute)
        self._flights.update(dict.fromkeys(keys, flight))
        flight.add_done_callback(lambda: self._forget(keys, flight))

    def _forget(self, keys: Sequence[str], flight: Flight[Pages]) -> None:
        for key in keys:
            if self._flights.get(key) is flight:
                del self._flights[key]
