"""A result by its name: remembered, being made for someone else, or made. One place for all that this process wants, whether it
is made here or elsewhere.

Decides in which order that is tried and what a receipt says about it. Knows no tiers, no engines and no transport.

- A result is looked for in memory, then in Redis, under every name that a maker of it would have given it; then it is made.
- What is made here is remembered in every tier; what is made elsewhere is remembered there, and here in memory.
- What is remembered and is no such result is forgotten, and made again.
- An item without a name is computed, and never remembered.
- Whoever wants a name of a stage that someone is already busy with joins, whatever that one is doing (looking it up, waiting for
  inputs or for the device, computing, remembering), and its more urgent priority and later deadline count for the computation
  too. They don't reach inputs that are being asked for already: where those come too late, the result is made again.
- What is remembered in Redis is made by one of the processes that could make it: where another is at it, this one waits for it, for a
  while (`stages/host/remembered/claiming.py`): never for so long that there is no time left to make it here.
- A failed computation is not remembered; everyone who waits gets its error. Where it failed because whoever began it had less time
  or went away, those who have time left have it made again.
- Results that have a name are shared by everyone who asked for it, and are therefore read-only.
"""

import asyncio
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cache.claims import Claim
from cache.tier import Label
from cache.tiered import MEMORY, Found, TieredCache
from stages.concurrency.thread_pool import TENANT
from stages.contract.errors import Cancelled, DeadlineExceeded, TriptychError
from stages.contract.item import Item, Reply, StageReceipt
from stages.engine.work import as_stage_error
from stages.host.deadlines import at_deadline, remaining_s
from stages.host.makers import Computation, Maker
from stages.host.remembered.cache_stats import CacheCounters
from stages.host.remembered.cache_threads import CacheThreads
from stages.host.remembered.claiming import Claiming, patience_s
from stages.host.remembered.origin import Origin, remembered_as
from stages.host.remembered.single_flight import Flight

RECENT = 0.2  # how much the last result counts for how long one usually takes


@dataclass(frozen=True, slots=True)
class _Shared:
    flight: Flight[Reply[Any]]
    computation: Computation


class Resolver:
    """To be used on one event loop. `replica`: who this process is, for receipts."""

    def __init__(self, cache: TieredCache, threads: CacheThreads, replica: str) -> None:
        self._cache, self._replica = threads, replica
        self._claiming = Claiming(cache, threads)
        self._usual_s: dict[str, float] = {}  # by stage: how long making a result takes
        self._remembers, self._is_far = bool(cache.tier_names), cache.is_far
        self._counters: dict[str, CacheCounters] = {}
        self._named: dict[tuple[str, str], _Shared] = {}  # by stage and name: others may make another thing of the same name
        self._flights: set[Flight[Reply[Any]]] = set()  # named or not

    @property
    def counters(self) -> Mapping[str, CacheCounters]:
        """By the stage that makes the results."""
        return self._counters

    def counters_of(self, stage: str) -> CacheCounters:
        return self._counters.setdefault(stage, CacheCounters.of(self._cache.tier_names))

    async def result(self, item: Item[Any], maker: Maker) -> Reply[Any]:
        """Cancelling the task withdraws the item. Raises any `TriptychError`."""
        if item.name is not None and not self._is_far and (maker.stage, item.name) not in self._named:
            remembered = await self._remembered(item, maker)
            if remembered is not None:
                return remembered
        while True:
            shared, joined = self._find_or_begin(item, maker)
            try:
                reply = await self._wait(shared, item)
            except (Cancelled, DeadlineExceeded):
                if joined and time.time() < item.deadline:
                    continue  # whoever began it is gone
                raise
            return self._as_joined(reply, maker) if joined else reply

    async def settled(self) -> None:
        """Returns once nothing is being computed or remembered any more."""
        while self._flights:
            await next(iter(self._flights)).ended()

    async def close(self, error: TriptychError) -> None:
        """What is unfinished fails with the error; what is there is remembered."""
        for flight in list(self._flights):
            flight.call_off(error.for_request())
        await self.settled()

    async def _wait(self, shared: _Shared, item: Item[Any]) -> Reply[Any]:
        waiter: asyncio.Future[Reply[Any]] = asyncio.get_running_loop().create_future()
        shared.flight.join(waiter)

        def expire() -> None:
            if not waiter.done():
                waiter.set_exception(shared.computation.too_late())

        call_off = at_deadline(item, expire)
        try:
            return await waiter
        finally:
            call_off()
            shared.flight.leave(waiter)

    def _find_or_begin(self, item: Item[Any], maker: Maker) -> tuple[_Shared, bool]:
        """The computation for this item, and whether someone else had begun it."""
        if item.name is None:
            return self._begin(item, maker), False
        key = (maker.stage, item.name)
        shared = self._named.get(key)
        if shared is not None and not shared.flight.has_failed and shared.computation.amend(item):
            return shared, True
        shared = self._named[key] = self._begin(item, maker)
        return shared, False

    def _begin(self, item: Item[Any], maker: Maker) -> _Shared:
        computation = maker.computation(item)

        def compute(flight: Flight[Reply[Any]]) -> Coroutine[Any, Any, None]:
            return self._compute(flight, computation, item, maker)

        flight = Flight(compute)
        self._flights.add(flight)
        flight.add_done_callback(lambda: self._flights.discard(flight))
        return _Shared(flight, computation)

    async def _compute(self, flight: Flight[Reply[Any]], computation: Computation, item: Item[Any], maker: Maker) -> None:
        TENANT.set(item.tenant)  # the context is the flight's own
        try:
            await self._look_up_or_make(flight, computation, item, maker)
        except Exception as error:
            raise as_stage_error(maker.stage, error, item) from None
        finally:
            self._forget(flight, item, maker)

    def _forget(self, flight: Flight[Reply[Any]], item: Item[Any], maker: Maker) -> None:
        key = (maker.stage, str(item.name))
        if key in self._named and self._named[key].flight is flight:
            del self._named[key]

    async def _look_up_or_make(
        self, flight: Flight[Reply[Any]], computation: Computation, item: Item[Any], maker: Maker
    ) -> None:
        if item.name is None:
            flight.set_result(await computation.run())
            return
        found = await self._found(item, maker) if self._is_far else None
        if isinstance(found, Reply):
            flight.set_result(found)
            return
        with self._claiming.holding(found):
            began = time.monotonic()
            reply = await computation.run()
            self._took(maker.stage, time.monotonic() - began)
            reply.value.freeze()
            flight.set_result(self._as_made(reply, maker))
            if self._remembers and reply.origin is not None:
                key = remembered_as(item.name, reply.origin)
                label = _label(item, maker)
                await self._cache.put(key, reply.value.arrays(), label, in_memory_only=not maker.is_here)

    async def _found(self, item: Item[Any], maker: Maker) -> Reply[Any] | Claim | None:
        """The result; or a claim to it. Whoever has it made elsewhere claims nothing: that is done there."""
        if not maker.is_here:
            return await self._remembered(item, maker)
        (origin,) = maker.origins()
        key = remembered_as(str(item.name), origin.key)
        patience = patience_s(self._usual_s.get(maker.stage), remaining_s(item))
        answer = await self._claiming.look_up(key, _label(item, maker), patience, self.counters_of(maker.stage).waited)
        if not isinstance(answer, Found):
            return answer
        return await self._checked({key: answer}, {key: origin}, item, maker)

    def _took(self, stage: str, seconds: float) -> None:
        usual_s = self._usual_s.get(stage, seconds)
        self._usual_s[stage] = usual_s + RECENT * (seconds - usual_s)

    def _as_made(self, reply: Reply[Any], maker: Maker) -> Reply[Any]:
        if not (maker.is_here and self._remembers):
            return reply
        self.counters_of(maker.stage).misses += 1
        moved = reply.value.num_bytes if self._is_far else 0
        return replace(reply, receipt=replace(reply.receipt, cache="miss", bytes_moved=moved))

    async def _remembered(self, item: Item[Any], maker: Maker) -> Reply[Any] | None:
        """As whichever known maker of it left it."""
        origins = {remembered_as(str(item.name), origin.key): origin for origin in maker.origins()}
        if not (origins and self._remembers):
            return None
        found = await self._cache.get_many(list(origins), _label(item, maker))
        return await self._checked(found, origins, item, maker)

    async def _checked(
        self, found: Mapping[str, Found], origins: Mapping[str, Origin], item: Item[Any], maker: Maker
    ) -> Reply[Any] | None:
        """The first that is such a result; what is none is forgotten."""
        for key, value in found.items():
            try:
                result = maker.result_type(item).of(value.value).freeze()
            except ValueError:
                await self._cache.forget(key)
                continue
            return self._from_cache(result, value, origins[key], maker)
        return None

    def _from_cache(self, result: Any, found: Found, origin: Origin, maker: Maker) -> Reply[Any]:
        """Bytes move from far tiers only; what is in memory is where it is needed."""
        self.counters_of(maker.stage).hits[found.tier] += 1
        receipt = StageReceipt(
            maker.stage,
            self._replica,
            origin.device,
            origin.dtype,
            cache=found.tier,
            bytes_moved=0 if found.tier == MEMORY else found.bytes,
        )
        return Reply(result, receipt, origin=origin.key)

    def _as_joined(self, reply: Reply[Any], maker: Maker) -> Reply[Any]:
        """The device's time and the bytes are on the receipt of whoever began it; here they would be counted twice."""
        self.counters_of(maker.stage).joined += 1
        return replace(reply, receipt=_joined(reply.receipt), inputs=tuple(map(_joined, reply.inputs)))


def _label(item: Item[Any], maker: Maker) -> Label:
    return Label(maker.result_type(item).kind(), item.salt)


def _joined(receipt: StageReceipt) -> StageReceipt:
    return replace(receipt, cache="joined", device_s=0.0, bytes_moved=0)
