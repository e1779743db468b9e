"""Stages behind Ray Serve handles: chooses replica and pool, waits no longer than the request, and survives the end of a replica.

Who is to do an item is ranked here, over all pools of its stage (`pipelines/routing/ranking.py`), by what replicas tell with every reply
and what was sent to them since; the pool's own router in this process takes the chosen one, unless it is gone or full.

Work is pure (a name says what a result is made of), so a one-shot call whose replica died, or whose device broke, is simply made
again elsewhere (`attempts.py` says how often); a stream, too, where nothing was told yet or the caller knows what is left to do. Knows no
HTTP and no model.

A replica without room costs no pause either: up to `MAX_FULL` others are asked, as long as one is known that was not. So it is with one
of another version that can't be read, or can't read the item (`stages/contract/message.py`).
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, TypeVar

from ray.serve.handle import DeploymentHandle

from pipelines.client import Again, Visit
from pipelines.cluster.attempts import Attempts, is_told_by_stage, too_late_with
from pipelines.cluster.object_store import ObjectStore
from pipelines.cluster.pieces import MAX_BYTES, Joined
from pipelines.cluster.pool import Pool
from pipelines.cluster.vigil import Vigil, Watch
from pipelines.routing.admission import Admission, forecast, lateness, said_of
from pipelines.routing.candidate import Ranked, Wanted
from pipelines.routing.route import Route, wanted_of
from pipelines.routing.table import ReplicaTable, table_of_this_process
from pipelines.routing.waitlist import Asked, Waitlist
from stages.contract.errors import ConfigurationError, QueueFull, TriptychError, Unavailable, Unreadable
from stages.contract.item import DEFAULT_TENANT, InputReceipts, Item, ReplicaEnded, Reply, StageReceipt, StreamEnd, tenant_hint
from stages.contract.message import readable
from stages.contract.news import StageNews, hint
from stages.host.deadlines import remaining_s
from stages.host.packed_item import PackedItem, packed

T = TypeVar("T")

MEETING_S, MEETINGS = 0.01, 100
"""How often, and how many times, it is looked whether Serve has said who is in a stage's pools: or a first call might go to one that
sleeps."""
UNPLACED_S = 1.0
"""How often it is looked whether what no replica has taken could go to another pool: Serve wakes only those that the scaler names, and
where a pool's last replica went with its node, it waits for the next one of that pool."""
UNACCEPTED_S = 5.0
"""A replica that has not even accepted a call by then does nothing (it is stopped, or its machine can't be reached, which nobody may have
noticed yet): another is asked, if one is known."""


class ServeStageClient:
    """`handles`: deployment name -> handle; `deployments`: stage name -> names of its pools' deployments, all of which may be chosen.
    `table`: what is known of their replicas; `admission`: by what a request is refused that would be late (None: none is); `waitlist`: of
    who was (None: one of its own). Items of streams share their large arrays: several choices about an image take one copy of its bytes
    along."""

    def __init__(
        self,
        handles: Mapping[str, DeploymentHandle],
        deployments: Mapping[str, Sequence[str]],
        store: ObjectStore | None = None,
        *,
        table: ReplicaTable | None = None,
        admission: Admission | None = Admission(),
        waitlist: Waitlist | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._deployments, self._admission = deployments, admission
        self._pools = {name: Pool(name, handle) for name, handle in handles.items()}
        self._store = store if store is not None else ObjectStore()
        self._table = table if table is not None else table_of_this_process()
        self._waitlist = waitlist if waitlist is not None else Waitlist()
        self._watch = watch if watch is not None else Watch()

    def admit(
        self,
        visits: Sequence[Visit],
        *,
        deadline: float,
        priority: int = 0,
        tenant: str = DEFAULT_TENANT,
        asked: str = "",
    ) -> None:
        if self._admission is None or math.isinf(deadline):
            return
        left_s = deadline - time.time()
        known = self._known(visits, priority, left_s, tenant)
        expected = forecast([ranked for _, ranked in known], self._admission)
        late = lateness(expected, left_s, priority=priority, settings=self._admission)
        if late.late_s <= 0 and not len(self._waitlist):
            return
        key = "" if late.is_hopeless else asked
        wants = Asked(key, tenant_hint(tenant), self._takes_s(known), is_urgent=priority <= 0)
        told_s = self._waitlist.wait_s(
            wants,
            late.late_s,
            time.monotonic(),
            allowed_s=late.allowed_s,
            promised_late_s=late.promised_late_s,
            is_idle=late.is_idle,
        )
        if told_s:
            stages = ", ".join(visit.stage for visit in visits)
            raise QueueFull(
                f"{stages}: too much is to be done before it: {said_of(expected, late)} (routing.admission); try again",
                retry_after_s=max(1.0, told_s),
            )

    def forecast(self, visits: Sequence[Visit], *, priority: int = 0, tenant: str = DEFAULT_TENANT) -> float | None:
        """Of the stages that have been seen to work."""
        known = [ranked for _, ranked in self._known(visits, priority, math.inf, tenant)]
        return forecast(known, self._admission or Admission()).finish_s if known else None

    def _takes_s(self, known: Sequence[tuple[Visit, Ranked]]) -> Mapping[str, float]:
        """By stage: for how long each keeps its pools busy, with every step as full as it may be."""
        found: dict[str, float] = {}
        for visit, ranked in known:
            if visit.work is not None and visit.work.steps > 0:
                num_replicas = self._table.num_members([pool.key for pool in self._hosting(visit.stage)])
                taken_s = 1 / (ranked.speed.rate(visit.work) * max(1, num_replicas))
                found[visit.stage] = found.get(visit.stage, 0.0) + taken_s
        return found

    def _known(self, visits: Sequence[Visit], priority: int, left_s: float, tenant: str) -> Sequence[tuple[Visit, Ranked]]:
        for visit in visits:
            self._meet(visit.stage)
        whose = tenant_hint(tenant)
        wanted = [Wanted(visit.work, visit.hints, visit.name, priority, left_s, whose) for visit in visits]
        ranked = [self._ranked(visit.stage, one) for visit, one in zip(visits, wanted, strict=True)]
        return [(visit, found) for visit, found in zip(visits, ranked, strict=True) if found is not None and found.is_known]

    async def call(self, stage: str, item: Item[Any], *, lost: set[str] | None = None) -> Reply[Any]:
        attempts = Attempts(lost)
        while True:
            pool, route = await self._route(stage, item, attempts)
            response: Any = None
            sent: PackedItem | None = None
            try:
                sent = pool.small(stage, item)
                if sent is not None:
                    response = pool.method("answer", sent).remote(stage, sent, to=route)
                    reply = await self._one(response, item, route, attempts)
                else:
                    response = pool.method("call").remote(stage, item, to=route)
                    reply = readable(await _in_time(self._placed(response, route, attempts), item, stage))
                pool.pace.tick()
                pool.heard(stage, reply)
                self._hear(route, reply.news)
                return replace(reply, receipt=_told(reply.receipt, route, pool.name), news=())
            except asyncio.CancelledError:
                _call_off(response)
                raise
            except _Elsewhere:
                _call_off(response)
                continue
            except Exception as raised:
                _call_off(response)  # where its time is up, it goes on
                if sent is not None and pool.is_of_before(raised, stage):
                    continue
                error = await self._watch.why(raised, route, remaining_s(item)) if sent is not None else raised
                failure = pool.translated(error, stage, item)
                another = attempts.another(error, failure, route.replica)
                if not another and not self._is_worth_another(error, failure, route, attempts):
                    raise attempts.last(stage, failure) from None
            finally:
                route.ended()
            await attempts.pause(stage, item)

    async def stream(
        self, stage: str, item: Item[Any], *, again: Again | None = None, lost: set[str] | None = None
    ) -> AsyncGenerator[Sequence[object], None]:
        sent: tuple[Item[Any] | PackedItem, Sequence[Any]] | None = None  # beside it: its large arrays' places in the store
        attempts = Attempts(lost)
        while True:
            pool, route = await self._route(stage, item, attempts)
            response: Any = None
            told, is_over, rest, began = False, False, None, time.monotonic()
            try:
                sent = sent or self._packed(item)
                response = pool.method("stream", sent[0]).remote(stage, sent[0], *sent[1], to=route)
                events: Sequence[object]
                async with aclosing(self._within(response, item, route, attempts)) as batches:
                    async for events in batches:
                        told = told or not all(isinstance(event, InputReceipts) for event in events)
                        is_over = isinstance(events[-1], StreamEnd) if events else False
                        yield self._with_end(events, route, pool)
                        if is_over:  # that Ray's own stream is over is known some time later
                            break
                is_over = True
                pool.pace.tick()
                return
            except _Elsewhere:
                continue
            except Exception as raised:
                error = await self._watch.why(raised, route, remaining_s(item))
                failure = pool.translated(error, stage, item)
                rest = again() if told and again is not None else None
                goes_on = rest is not None and rest.payload is not item.payload
                another = attempts.another(error, failure, route.replica, goes_on=goes_on, waits=item.continues)
                may_try = another or self._is_worth_another(error, failure, route, attempts)
                given_up = failure if told and rest is None else None if may_try else attempts.last(stage, failure)
            finally:
                route.ended()
                if not is_over:
                    _call_off(response)
            if told and isinstance(failure, Unavailable):
                yield [ReplicaEnded(_ended_early(stage, route, pool.name, time.monotonic() - began))]
            if given_up is not None:
                raise given_up
            if rest is not None:
                item, sent = replace(item, payload=rest.payload, work=rest.work, continues=True), None
            await attempts.pause(stage, item)

    def _packed(self, item: Item[Any]) -> tuple[Item[Any] | PackedItem, Sequence[Any]]:
        made, arrays = packed(item, small_bytes=MAX_BYTES)
        return made, [self._store.reference(array) for array in arrays]

    async def _one(self, response: Any, item: Item[Any], route: Route, attempts: Attempts) -> Reply[Any]:
        """The only value of a stream."""
        reply: Reply[Any]
        async with aclosing(self._within(response, item, route, attempts)) as values:
            async for reply in values:  # that Ray's own stream is over is known some time later
                return reply
        raise Unavailable(f"{route.stage}: its replica ended its answer before it was whole; try again", retry_after_s=5.0)

    async def _within(self, response: Any, item: Item[Any], route: Route, attempts: Attempts) -> AsyncGenerator[Any, None]:
        """The stream's values, up to the item's deadline. Raises `_Elsewhere`, too, and `Unreadable`."""
        iterator, has_begun, joined = aiter(response), False, Joined()
        async with aclosing(self._watch.over(route)) as vigil:
            while True:
                awaited = anext(iterator) if has_begun else self._placed(anext(iterator), route, attempts)
                try:
                    told = await _in_time(awaited, item, route.stage, vigil)
                except StopAsyncIteration:
                    return
                has_begun = True
                events = joined.add(told)
                if events is not None:
                    yield readable(events)

    async def _placed(self, awaited: Awaitable[T], route: Route, attempts: Attempts) -> T:
        """Raises `_Elsewhere` as long as no replica has accepted it: once one of another pool would have it sooner than whoever comes, or
        any other one than who doesn't answer."""
        answer = asyncio.ensure_future(_answer(awaited))
        answer.add_done_callback(lambda task: task.cancelled() or task.exception())  # where it is called off, nobody asks
        try:
            while not route.is_accepted and not answer.done():
                await asyncio.wait([answer], timeout=UNPLACED_S)
                if not route.is_accepted and not answer.done() and self._is_better_elsewhere(route, attempts):
                    raise _Elsewhere
            return await answer
        finally:
            answer.cancel()

    def _is_better_elsewhere(self, route: Route, attempts: Attempts) -> bool:
        """Where it is with nobody: in another pool. Where who has it says nothing: with anybody else. Notes who was in vain."""
        is_silent = route.placed_at is not None
        if route.placed_at is not None and time.monotonic() < route.placed_at + UNACCEPTED_S:
            return False
        attempts.tried |= route.tried | ({route.replica} if is_silent else set())
        ranked = self._ranked(route.stage, route.wanted, attempts.tried)
        if ranked is None or ranked.best.replica in attempts.tried | {""} or ranked.best.is_full:
            return False
        return is_silent or ranked.best.pool != route.pool

    def _is_worth_another(self, error: Exception, failure: TriptychError, route: Route, attempts: Attempts) -> bool:
        """Where it was a replica that had no room: not where all were asked before it, as Serve did. Or where one of another version can't
        be read, or can't read the item: also where nobody is known yet."""
        is_unread = isinstance(failure, Unreadable)
        if not is_unread and not (isinstance(failure, QueueFull) and is_told_by_stage(error)):
            return False
        ranked = self._ranked(route.stage, route.wanted, attempts.tried)
        if ranked is None:
            return is_unread and attempts.one_of_another_version(is_known=False)
        if ranked.best.replica in attempts.tried | {""} or ranked.best.is_full:
            return False
        return attempts.one_of_another_version(is_known=True) if is_unread else attempts.one_with_room()

    def _with_end(self, events: Sequence[object], route: Route, pool: Pool) -> Sequence[object]:
        end = events[-1] if events else None
        if not isinstance(end, StreamEnd):
            return events
        self._hear(route, end.news)
        return [*events[:-1], StreamEnd(_told(end.receipt, route, pool.name))]

    async def _route(self, stage: str, item: Item[Any], attempts: Attempts) -> tuple[Pool, Route]:
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

    def _meet(self, stage: str) -> Sequence[Pool]:
        """Has Serve tell who is in its pools."""
        pools = self._hosting(stage)
        for pool in pools:
            pool.method("call")
        return pools

    async def _met(self, stage: str) -> Sequence[Pool]:
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

    def _hosting(self, stage: str) -> Sequence[Pool]:
        names = self._deployments.get(stage, ())
        if not names or not all(name in self._pools for name in names):
            known = ", ".join(self._deployments) or "none"
            raise ConfigurationError(f"stage {stage!r} can't be called from here (what can: {known})")
        return [self._pools[name] for name in names]


class _Elsewhere(Exception):
    """What nobody has taken yet is to go to another pool, or replica."""


def _ended_early(stage: str, route: Route, pool: str, seconds: float) -> StageReceipt:
    """Of a replica that can't tell any more."""
    receipt = StageReceipt(stage, route.replica, "unknown", "unknown", run_s=seconds, ended_early=True)
    return _told(receipt, route, pool)


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


def _call_off(response: Any) -> None:
    """A call that failed on its way raises that again here, over what was made of it. None: it never was under way."""
    if response is not None:
        with suppress(Exception):
            response.cancel()


async def _answer(awaited: Awaitable[T]) -> T:
    return await awaited


async def _in_time(awaited: Awaitable[T], item: Item[Any], stage: str, vigil: Vigil | None = None) -> T:
    """Raises `DeadlineExceeded` at the item's deadline. A `TimeoutError` of the call's own is no such thing. `vigil`: ends it, too."""
    timer = asyncio.timeout(remaining_s(item))
    try:
        async with timer:
            if vigil is None:
                return await awaited
            with vigil.kept(timer):
                return await awaited
    except TimeoutError:
        if not timer.expired():
            raise
        if vigil is not None and vigil.error is not None:
            raise vigil.error from None
        raise too_late_with(stage) from None
