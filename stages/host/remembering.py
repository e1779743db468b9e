"""A one-shot stage whose results have names: looked up, joined, or computed and remembered.

Decides in which order that is tried and what a receipt says about it. Knows no tiers and no models.

- An item without a name is computed, and never remembered.
- A result is remembered under its name and what only the process that makes it knows: its dtype, and the versions of its libraries.
- Whoever wants a name that someone is already busy with joins the flight, whatever that one is doing (looking it up, waiting
  for the device, computing, remembering), and its more urgent priority and later deadline count for the computation too.
- A failed computation is not remembered; everyone in the flight gets its error.
- Arrays that have a name are shared by everyone who asked for it, and are therefore read-only.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from cache.keys import name as named
from cache.tiered import Found, TieredCache
from stages.checkpoints.input_versions import input_versions
from stages.contract.errors import DeadlineExceeded, TriptychError
from stages.contract.item import Item, Reply, StageReceipt
from stages.contract.result import Arrays
from stages.engine.engine import Handle, Place
from stages.engine.one_shot_engine import OneShotEngine
from stages.engine.work import as_stage_error
from stages.host.single_flight import Flight


@dataclass(slots=True)
class CacheCounters:
    cache_hits_memory_total: int = 0
    cache_hits_redis_total: int = 0
    cache_misses_total: int = 0
    cache_joined_total: int = 0


class _Landing:
    """A `Receiver` for one result."""

    def __init__(self) -> None:
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def events(self, events: object) -> None:
        """One-shot stages have none."""

    def done(self, value: Arrays, receipt: StageReceipt) -> None:
        if not self.reply.done():
            self.reply.set_result(Reply(value, receipt))

    def failed(self, error: TriptychError) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


class _Computation:
    """One item on its way through the engine, on behalf of everyone in its flight."""

    def __init__(self, engine: OneShotEngine[Any, Any], item: Item[Any]) -> None:
        self._engine, self._item = engine, item
        self._handle: Handle | None = None

    @property
    def item_id(self) -> str:
        return self._item.id

    async def run(self) -> Reply:
        landing = _Landing()
        self._handle = self._engine.submit(self._item, landing)
        try:
            return await landing.reply
        finally:
            self._handle.cancel()

    def amend(self, item: Item[Any]) -> bool:
        """Someone else joins. False: too late, it has failed."""
        if self._handle is not None:
            return self._handle.amend(item.priority, item.deadline)
        urgent, late = min(item.priority, self._item.priority), max(item.deadline, self._item.deadline)
        self._item = replace(self._item, priority=urgent, deadline=late)
        return True

    def too_late(self) -> DeadlineExceeded:
        if self._handle is not None:
            return self._handle.too_late()
        stage = self._engine.place.stage
        return DeadlineExceeded(
            f"the request's time is up: its result was still being looked up for stage {stage}; allow more with the header "
            "x-request-timeout-seconds"
        )


@dataclass(frozen=True, slots=True)
class _Journey:
    flight: Flight[Reply]
    computation: _Computation


class RememberingStage:
    """One hosted one-shot stage. To be used on one event loop."""

    def __init__(self, engine: OneShotEngine[Any, Any], cache: TieredCache) -> None:
        self.engine = engine
        self.counters = CacheCounters()
        self._cache = cache
        self._remembers = bool(cache.tier_names)
        self._is_far = is_far(cache)
        self._flying: dict[str, _Journey] = {}
        self._flights: set[Flight[Reply]] = set()  # named or not

    async def call(self, item: Item[Any], waiter: "asyncio.Future[Reply]") -> Reply:
        """`waiter` is a new future, in which the caller may end the waiting with an error."""
        if item.name is not None:
            item = replace(item, name=made_here(item.name, self.engine.place))
        if item.name is not None and self._remembers and not self._is_far and item.name not in self._flying:
            found = self._cache.get(item.name)
            if found is not None:
                return self._from_cache(found)
        journey, joined = self._board(item)
        reply = await self._wait(journey, item, waiter)
        return self._as_joined(reply) if joined else reply

    async def settled(self) -> None:
        """Returns once nothing is being computed or remembered any more."""
        while self._flights:
            await next(iter(self._flights)).ended()

    async def _wait(self, journey: _Journey, item: Item[Any], waiter: "asyncio.Future[Reply]") -> Reply:
        journey.flight.join(waiter)

        def expire() -> None:
            if not waiter.done():
                waiter.set_exception(journey.computation.too_late())

        call_off = at_deadline(item, expire)
        try:
            return await waiter
        finally:
            call_off()
            journey.flight.leave(waiter)

    def _board(self, item: Item[Any]) -> tuple[_Journey, bool]:
        """The flight for this item, and whether someone else had begun it."""
        if item.name is None:
            return self._take_off(item), False
        journey = self._flying.get(item.name)
        if journey is not None and not journey.flight.has_failed and journey.computation.amend(item):
            return journey, True
        journey = self._flying[item.name] = self._take_off(item)
        return journey, False

    def _take_off(self, item: Item[Any]) -> _Journey:
        computation = _Computation(self.engine, item)

        def fly(flight: Flight[Reply]) -> Coroutine[Any, Any, None]:
            return self._fly(flight, computation, item.name)

        flight = Flight(fly)
        self._flights.add(flight)
        flight.add_done_callback(lambda: self._flights.discard(flight))
        return _Journey(flight, computation)

    async def _fly(self, flight: Flight[Reply], computation: _Computation, name: str | None) -> None:
        try:
            await self._find_or_compute(flight, computation, name)
        except Exception as error:
            raise as_stage_error(self.engine.place.stage, error, computation.item_id) from None
        finally:
            if name is not None and (journey := self._flying.get(name)) and journey.flight is flight:
                del self._flying[name]

    async def _find_or_compute(self, flight: Flight[Reply], computation: _Computation, name: str | None) -> None:
        if name is None:
            flight.land(await computation.run())
            return
        if self._is_far:
            found = await asyncio.to_thread(self._cache.get, name)
            if found is not None:
                flight.land(self._from_cache(found))
                return
        reply = _frozen(await computation.run())
        if not self._remembers:
            flight.land(reply)
            return
        self.counters.cache_misses_total += 1
        moved = sum(array.nbytes for array in reply.value.values()) if self._is_far else 0
        flight.land(Reply(reply.value, replace(reply.receipt, cache="miss", bytes_moved=moved)))
        await asyncio.to_thread(self._cache.put, name, reply.value)

    def _from_cache(self, found: Found) -> Reply:
        """Bytes move from Redis only; what is in memory is where it is needed."""
        if found.tier == "memory":
            self.counters.cache_hits_memory_total += 1
        else:
            self.counters.cache_hits_redis_total += 1
        place: Place = self.engine.place
        moved = 0 if found.tier == "memory" else found.bytes
        receipt = StageReceipt(place.stage, place.replica, place.device, place.dtype, cache=found.tier, bytes_moved=moved)
        return Reply(found.value, receipt)

    def _as_joined(self, reply: Reply) -> Reply:
        """The device's time and the bytes are on the receipt of whoever began it; here they would be counted twice."""
        self.counters.cache_joined_total += 1
        return Reply(reply.value, replace(reply.receipt, cache="joined", device_s=0.0, bytes_moved=0))


def made_here(name: str, place: Place) -> str:
    """What a pipeline's name for a result becomes where the result is made."""
    return named("made_in", result=name, dtype=place.dtype, versions=input_versions())


def is_far(cache: TieredCache) -> bool:
    """Whether asking it may take a while, and is no work for the event loop."""
    return any(name != "memory" for name in cache.tier_names)


def at_deadline(item: Item[Any], act: Callable[[], object]) -> Callable[[], None]:
    """Calls `act` when the item's time is up. Returns what calls that off."""
    if item.deadline == float("inf"):
        return lambda: None
    return asyncio.get_running_loop().call_later(item.deadline - time.time(), act).cancel


def _frozen(reply: Reply) -> Reply:
    for array in reply.value.values():
        array.flags.writeable = False
    return reply
