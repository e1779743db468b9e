"""Stages behind Ray Serve handles: chooses replica and pool, waits no longer than the request, and survives the end of a replica.

Who is to do an item is ranked here, over all pools of its stage (`pipelines/routing/ranking.py`), by what replicas tell with every reply
and what was sent to them since; the pool's own router in this process takes the chosen one, unless it is gone or full.

Work is pure (a name says what a result is made of), so a one-shot call whose replica died, or whose device broke, is simply made
again elsewhere, and a stream too, where nothing was shown yet or the caller can bear a new start. That is done once: the request itself
may be what ends replicas, and after `MAX_LOST` of them it fails with `ReplicaLost`. All pieces of a request count together. Knows no HTTP
and no model.

What ended for another reason costs a pause and no attempt, as far as that can be told:
- a replica that dies before it has accepted a request: Serve's router sends that to another, and nobody here hears of it;
- one that only refuses (it is broken, or closing, and Serve has yet to replace it), also where its device broke while the request
  waited there (`stages/engine/device_faults.py`);
- one that went with its whole node.
A replica that is stopped in order ends the requests in its hand first, so who is killed by Serve itself did not end in time: that
counts. Where a stage behind the one that is called is unavailable, its replica has tried.

A replica without room costs no pause either: up to `MAX_FULL` others are asked, as long as one is known that was not.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import ray.exceptions
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from pipelines.client import Visit
from pipelines.cluster.object_store import ObjectStore
from pipelines.routing.admission import Admission, admit, forecast
from pipelines.routing.candidate import Ranked, Wanted
from pipelines.routing.route import Route, wanted_of
from pipelines.routing.table import ReplicaTable, pool_key, table_of_this_process
from stages.contract.errors import (
    Broken,
    Cancelled,
    ConfigurationError,
    DeadlineExceeded,
    InputUnavailable,
    QueueFull,
    ReplicaLost,
    StageFailed,
    TriptychError,
    Unavailable,
)
from stages.contract.item import InputReceipts, Item, Reply, StageReceipt, StreamEnd
from stages.contract.news import StageNews, hint
from stages.host.deadlines import remaining_s, too_late
from stages.host.packed_item import PackedItem, packed

T = TypeVar("T")

MAX_LOST = 2
MEETING_S, MEETINGS = 0.01, 100
"""How often, and how many times, it is looked whether Serve has said who is in a stage's pools: or a first call might go to one that
sleeps."""
UNPLACED_S = 1.0
"""How often it is looked whether what no replica has taken could go to another pool: Serve wakes only those that the scaler names."""
MAX_FULL = 2
MAX_TRIES = 300  # of a request without a deadline
_CANCELLED = (Cancelled, RequestCancelledError, ray.exceptions.TaskCancelledError)
_NODE_DIED = (ray.exceptions.NodeDiedError, ray.exceptions.OwnerDiedError)
_REPLICA_DIED = (ray.exceptions.RayActorError, *_NODE_DIED)


class ServeStageClient:
    """`handles`: deployment name -> handle; `deployments`: stage name -> names of its pools' deployments, all of which may be chosen.
    `table`: what is known of their replicas; `admission`: by what a request is refused that would be late (None: none is). Items of
    streams share their large arrays: several choices about an image take one copy of its bytes along."""

    def __init__(
        self,
        handles: Mapping[str, DeploymentHandle],
        deployments: Mapping[str, Sequence[str]],
        store: ObjectStore | None = None,
        *,
        table: ReplicaTable | None = None,
        admission: Admission | None = Admission(),
    ) -> None:
        self._deployments, self._admission = deployments, admission
        self._pools = {name: _Pool(name, handle) for name, handle in handles.items()}
        self._store = store if store is not None else ObjectStore()
        self._table = table if table is not None else table_of_this_process()

    def admit(self, visits: Sequence[Visit], *, deadline: float, priority: int = 0) -> None:
        if self._admission is None or math.isinf(deadline):
            return
        left_s = deadline - time.time()
        expected = forecast(self._known(visits, priority, left_s), self._admission)
        refusal = admit(expected, left_s, priority=priority, settings=self._admission)
        if refusal is not None:
            stages = ", ".join(visit.stage for visit in visits)
            raise QueueFull(
                f"{stages}: too much is to be done before it: {refusal.why} (routing.admission); try again",
                retry_after_s=max(1.0, refusal.retry_after_s),
            )

    def forecast(self, visits: Sequence[Visit], *, priority: int = 0) -> float | None:
        """Of the stages that have been seen to work."""
        known = self._known(visits, priority, math.inf)
        return forecast(known, self._admission or Admission()).finish_s if known else None

    def _known(self, visits: Sequence[Visit], priority: int, left_s: float) -> Sequence[Ranked]:
        for visit in visits:
            self._meet(visit.stage)
        ranked = [self._ranked(visit.stage, Wanted(visit.work, visit.hints, visit.name, priority, left_s)) for visit in visits]
        return [visit for visit in ranked if visit is not None and visit.is_known]

    async def call(self, stage: str, item: Item[Any], *, lost: set[str] | None = None) -> Reply[Any]:
        attempts = _Attempts(lost)
        while True:
            pool, route = await self._route(stage, item, attempts)
            response: Any = None
            try:
                response = pool.method("call").remote(stage, item, to=route)
                reply: Reply[Any] = await _in_time(self._placed(response, route, attempts), item, stage)
                pool.pace.tick()
                self._hear(route, reply.news)
                return replace(reply, receipt=_told(reply.receipt, route, pool.name), news=())
            except asyncio.CancelledError:
                _call_off(response)
                raise
            except _Elsewhere:
                _call_off(response)
                continue
            except Exception as error:
                _call_off(response)  # where its time is up, it goes on
                failure = _translated(error, stage, item, pool)
                another = attempts.another(error, failure, route.replica)
                if not another and not self._has_room_elsewhere(error, failure, route, attempts):
                    raise attempts.last(stage, failure) from None
            finally:
                route.ended()
            await attempts.pause(stage, item)

    async def stream(
        self, stage: str, item: Item[Any], *, restartable: bool = False, lost: set[str] | None = None
    ) -> AsyncGenerator[Sequence[object], None]:
        sent: Item[Any] | PackedItem | None = None
        beside: Sequence[Any] = ()
        attempts = _Attempts(lost)
        while True:
            pool, route = await self._route(stage, item, attempts)
            response: Any = None
            shown = False
            try:
                if sent is None:
                    made, arrays = packed(item)
                    beside = [self._store.reference(array) for array in arrays]
                    sent = made
                response = pool.method("stream").remote(stage, sent, *beside, to=route)
                events: Sequence[object]
                async for events in self._within(response, item, route, attempts):
                    shown = shown or not all(isinstance(event, InputReceipts) for event in events)
                    yield self._with_end(events, route, pool)
                pool.pace.tick()
                return
            except _Elsewhere:
                continue
            except Exception as error:
                failure = _translated(error, stage, item, pool)
                another = attempts.another(error, failure, route.replica)
                if shown and not restartable:
                    raise failure from None
                if not another and not self._has_room_elsewhere(error, failure, route, attempts):
                    raise attempts.last(stage, failure) from None
            finally:
                route.ended()
                _call_off(response)
            await attempts.pause(stage, item)

    async def _within(
        self, response: Any, item: Item[Any], route: Route, attempts: "_Attempts"
    ) -> AsyncGenerator[Sequence[object], None]:
        """The stream's values, up to the item's deadline. Raises `_Elsewhere`, too."""
        iterator = aiter(response)
        while True:
            try:
                events = await _in_time(self._placed(anext(iterator), route, attempts), item, route.stage)
            except StopAsyncIteration:
                return
            yield events

    async def _placed(self, awaited: Awaitable[T], route: Route, attempts: "_Attempts") -> T:
        """Raises `_Elsewhere` once a replica of another pool would have it sooner, as long as none has taken it."""
        if route.replica or len(self._hosting(route.stage)) == 1:
            return await awaited
        answer = asyncio.ensure_future(_answer(awaited))
        try:
            while not route.replica and not answer.done():
                await asyncio.wait([answer], timeout=UNPLACED_S)
                if not route.replica and not answer.done() and self._is_sooner_elsewhere(route, attempts):
                    raise _Elsewhere
            return await answer
        finally:
            answer.cancel()

    def _is_sooner_elsewhere(self, route: Route, attempts: "_Attempts") -> bool:
        ranked = self._ranked(route.stage, route.wanted, attempts.tried)
        return ranked is not None and ranked.best.pool != route.pool and bool(ranked.best.replica) and not ranked.best.is_full

    def _has_room_elsewhere(self, error: Exception, failure: TriptychError, route: Route, attempts: "_Attempts") -> bool:
        """Where it was a replica that had no room: not where all were asked before it, as Serve did."""
        if not (isinstance(failure, QueueFull) and isinstance(error, ray.exceptions.RayTaskError)):
            return False
        ranked = self._ranked(route.stage, route.wanted, attempts.tried)
        if ranked is None or ranked.best.replica in attempts.tried | {""} or ranked.best.is_full:
            return False
        return attempts.one_with_room()

    def _with_end(self, events: Sequence[object], route: Route, pool: "_Pool") -> Sequence[object]:
        end = events[-1] if events else None
        if not isinstance(end, StreamEnd):
            return events
        self._hear(route, end.news)
        return [*events[:-1], StreamEnd(_told(end.receipt, route, pool.name))]

    async def _route(self, stage: str, item: Item[Any], attempts: "_Attempts") -> tuple["_Pool", Route]:
        """To be ended, whatever comes of it."""
        pools = await self._met(stage)
        wanted = self._with_parts(wanted_of(item), item)
        ranked = self._ranked(stage, wanted, attempts.tried)
        pool = next(pool for pool in pools if ranked is None or pool.key == ranked.best.pool)
        return pool, Route(self._table, stage, pool.key, wanted, ranked, frozenset(attempts.tried))

    def _ranked(self, stage: str, wanted: Wanted, tried: Collection[str] = ()) -> Ranked | None:
        keys = [pool.key for pool in self._hosting(stage)]
        return self._table.ranked(stage, keys, wanted, time.monotonic(), without=tried)

    def _with_parts(self, wanted: Wanted, item: Item[Any]) -> Wanted:
        """Who holds results that it needs saves about the time in which they would be had elsewhere."""
        recipes = [
            recipe
            for recipe in (item.payload.needs() if item.payload is not None else ())
            if recipe.stage in self._deployments
        ]
        if not recipes:
            return wanted
        first = recipes[0]
        self._meet(first.stage)
        made = self._ranked(first.stage, Wanted(first.work, name=hint(first.name), priority=item.priority))
        parts = tuple(hint(recipe.name) for recipe in recipes)
        part_s = made.finish_s / len(parts) if made is not None and made.is_known else 0.0
        return replace(wanted, hints=replace(wanted.hints, parts=parts, part_s=part_s))

    def _meet(self, stage: str) -> Sequence["_Pool"]:
        """Has Serve tell who is in its pools."""
        pools = self._hosting(stage)
        for pool in pools:
            pool.method("call")
        return pools

    async def _met(self, stage: str) -> Sequence["_Pool"]:
        """Its pools, once Serve has said who is in each; but it isn't waited for long, and once a pool only."""
        pools = self._meet(stage)
        unmet = [pool for pool in pools if not pool.is_met] if len(pools) > 1 else []
        if unmet:
            for _ in range(MEETINGS):
                if all(self._table.is_known(pool.key) for pool in unmet):
                    break
                await asyncio.sleep(MEETING_S)
            for pool in unmet:
                pool.is_met = True
        return pools

    def _hear(self, route: Route, told: Sequence[StageNews]) -> None:
        now = time.monotonic()
        for news in told:
            self._table.heard(route.pool, news, now)

    def _hosting(self, stage: str) -> Sequence["_Pool"]:
        names = self._deployments.get(stage, ())
        if not names or not all(name in self._pools for name in names):
            known = ", ".join(self._deployments) or "none"
            raise ConfigurationError(f"stage {stage!r} can't be called from here (what can: {known})")
        return [self._pools[name] for name in names]


class _Elsewhere(Exception):
    """What nobody has taken yet is to go to another pool."""


class _Pool:
    """A deployment, and how it is called. `is_met`: who is in it was told, or waited for long enough."""

    def __init__(self, name: str, handle: DeploymentHandle) -> None:
        self.name, self._handle = name, handle
        self.key = pool_key(handle.app_name, name)
        self.pace = _Pace()
        self.is_met = False
        self._methods: dict[str, DeploymentHandle] = {}

    def method(self, name: str) -> DeploymentHandle:
        if name not in self._methods:
            self._methods[name] = self._handle.options(method_name=name, stream=name == "stream")
        return self._methods[name]


def _told(receipt: StageReceipt, route: Route, pool: str) -> StageReceipt:
    """With what was expected of the replica that it went to."""
    ranked = route.ranked
    if ranked is None or ranked.best.replica != route.replica:
        return replace(receipt, pool=pool)
    other = ranked.runner_up
    return replace(
        receipt,
        pool=pool,
        expected_s=ranked.finish_s if ranked.is_known else None,
        runner_up=other.replica if other is not None else None,
        runner_up_pool=other.pool.partition("#")[2] if other is not None else None,
        runner_up_s=ranked.runner_up_s if ranked.is_known else None,
        remembered=ranked.remembered,
        reasons=ranked.reasons,
    )


def _translated(error: Exception, stage: str, item: Item[Any], pool: _Pool) -> TriptychError:
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    if isinstance(cause, _CANCELLED) and time.time() >= item.deadline:
        return _too_late(stage)  # the deadline is what cancelled it
    if isinstance(cause, TriptychError):
        return cause
    if isinstance(error, BackPressureError):
        return QueueFull(
            f"{stage}: every replica is busy and the queue before them is full "
            f"(deployments.{pool.name}.max_queued_requests); try again",
            retry_after_s=pool.pace.retry_after_s(),
        )
    if isinstance(error, _CANCELLED):
        return Cancelled(f"{stage}: cancelled")
    if isinstance(error, (*_REPLICA_DIED, DeploymentUnavailableError, RayServeException)):
        return _gone(stage)
    return StageFailed(f"{stage} failed", detail=f"{type(cause).__name__}: {cause}")


class _Attempts:
    """Whether a request is tried once more, and after which pause. `lost`: shared by all pieces of a request. `tried`: replicas that are
    to be spared while there are others."""

    def __init__(self, lost: set[str] | None) -> None:
        self._lost = lost if lost is not None else set()
        self._num_tries = self._num_full = 0
        self._is_to_pause = True
        self.tried: set[str] = set()

    def another(self, error: Exception, failure: TriptychError, replica: str) -> bool:
        """Notes which replica was lost, if one was. `replica`: where it was tried ("": nowhere)."""
        self._num_tries += 1
        self._is_to_pause = True
        self.tried |= {replica} - {""}
        if isinstance(failure, Broken):
            self._lost.add(str(failure))  # it names the replica
        elif isinstance(error, ray.exceptions.RayActorError) and not _went_with_its_node(error):
            self._lost.add(error.actor_id or f"one that nobody names, in try {self._num_tries}")
        elif not self._had_no_part(error, failure):
            return False
        return len(self._lost) < MAX_LOST and self._num_tries <= MAX_TRIES

    def one_with_room(self) -> bool:
        """One more, without a pause."""
        self._num_full += 1
        self._is_to_pause = False
        return self._num_full <= MAX_FULL

    def _had_no_part(self, error: Exception, failure: TriptychError) -> bool:
        if isinstance(error, _NODE_DIED) or _went_with_its_node(error):
            return True
        refused = isinstance(error, ray.exceptions.RayTaskError) and isinstance(failure, Unavailable)
        return refused and not isinstance(failure, InputUnavailable)

    def last(self, stage: str, failure: TriptychError) -> TriptychError:
        """What is told in the end. Where a replica was lost and nobody could try again, trying later might cost the next one."""
        if self._lost and isinstance(failure, Unavailable):
            return ReplicaLost(f"{stage}: {len(self._lost)} replicas ended under the request", detail=str(failure))
        return failure

    async def pause(self, stage: str, item: Item[Any]) -> None:
        """Up to a second: until Serve notices, the same replica may be chosen again. Raises `DeadlineExceeded`."""
        pause_s, left_s = min(1.0, 0.05 * 2**self._num_tries) if self._is_to_pause else 0.0, remaining_s(item)
        await asyncio.sleep(pause_s if left_s is None else min(pause_s, left_s))
        if remaining_s(item) == 0:
            raise _too_late(stage)


def _went_with_its_node(error: Exception) -> bool:
    """Ray says so only in words, unless the node was preempted."""
    return isinstance(error, ray.exceptions.RayActorError) and (error.preempted or "node has died" in str(error))


class _Pace:
    """How fast a deployment answers, to say when to come back. Mean seconds between answers, over the last few."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._mean_s = 1.0

    def tick(self) -> None:
        now = time.monotonic()
        self._mean_s += 0.2 * (min(now - self._last, 10.0) - self._mean_s)
        self._last = now

    def retry_after_s(self) -> float:
        return max(1.0, min(60.0, 4 * self._mean_s))


def _call_off(response: Any) -> None:
    """A call that failed on its way raises that again here, over what was made of it. None: it never was under way."""
    if response is not None:
        with suppress(Exception):
            response.cancel()


async def _answer(awaited: Awaitable[T]) -> T:
    return await awaited


async def _in_time(awaited: Awaitable[T], item: Item[Any], stage: str) -> T:
    """Raises `DeadlineExceeded` at the item's deadline. A `TimeoutError` of the call's own is no such thing."""
    timer = asyncio.timeout(remaining_s(item))
    try:
        async with timer:
            return await awaited
    except TimeoutError:
        if not timer.expired():
            raise
        raise _too_late(stage) from None


def _too_late(stage: str) -> DeadlineExceeded:
    return too_late(f"it was with {stage}")


def _gone(stage: str) -> Unavailable:
    return Unavailable(f"{stage}: its replica died and no other took over in time; try again", retry_after_s=5.0)
