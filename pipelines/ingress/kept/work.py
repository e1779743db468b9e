"""Work that no connection waits for: submitted, kept, done by some HTTP process, and told of by any.

Decides who does it (whoever holds its lease: `leases.py`), how much of it at a time, that it is begun anew where its process died, at most
`MAX_TRIES` times, and that it ends once, by its time. What was too busy for it is asked again. Without a store that processes share, what
one of them was given ends with it. Knows no HTTP; what the work is, is a `Worker`'s to know.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from pipelines.ingress.kept.kept_values import KeptValues, Kind, Owner
from pipelines.ingress.kept.leases import RENEW_S, Leases, OpenWork
from pipelines.ingress.kept.work_state import JsonObject, Status, WorkState
from stages.concurrency.together import stopped
from stages.contract.errors import DeadlineExceeded, Overloaded, ReplicaLost, TriptychError, Unavailable

MAX_TRIES = 3
"""Work that ends the process that does it would end one after the other."""
ROUND_S = 1.0
MAX_PAUSE_S = 30.0

T = TypeVar("T")

logger = logging.getLogger("triptych.surface")


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of work as a worker gets it: what was submitted, whose it is, and when it must be done (seconds since 1970)."""

    id: str
    given: bytes
    owner: Owner
    created: float
    until: float
    about: JsonObject


class Worker(Protocol):
    async def run(self, task: Task, report: Callable[[JsonObject], None]) -> JsonObject:
        """Does it, and tells what came of it. `report`: how far it is; cheap, to be called as often as there is news. Cancelled where it is
        called off. May be run again from the beginning, elsewhere. Raises `TriptychError`; `Overloaded`: it is to be tried again."""
        ...

    async def forget(self, id: str, owner: Owner) -> None:
        """Work that was deleted: nothing is to be kept of it. Also for work that it never did."""
        ...

    def told_error(self, task_id: str, error: Exception) -> JsonObject:
        """What a client is told of it."""
        ...

    def owner_of(self, tenant: str) -> Owner | None:
        """None: nobody that is known here is of that tenant; its work is left to who knows it."""
        ...


@dataclass(frozen=True, slots=True)
class WorkKinds:
    """What is kept of it: what was given, for as long as it is needed, and its state."""

    given: Kind
    state: Kind


@dataclass(slots=True)
class _Running:
    open: OpenWork
    owner: Owner
    state: WorkState
    task: "asyncio.Task[None] | None" = None
    is_called_off: bool = False
    is_news: bool = False


class KeptWork:
    """On one event loop. `max_running`: pieces of work at a time, where no tenant waits of which nothing runs; 0: none. It, `kinds` and
    `worker` may be set anew at any time; what runs then goes on, and is tried again by the newest worker. Methods raise `Unavailable`
    where what is kept can't be reached."""

    def __init__(
        self,
        name: str,
        values: KeptValues,
        *,
        leases: Leases | None = None,
        renew_s: float = RENEW_S,
        round_s: float = ROUND_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._values, self._leases = values, leases or Leases(name, values)
        self._renew_s, self._round_s, self._now = renew_s, round_s, now
        self.kinds: WorkKinds | None = None
        self.worker: Worker | None = None
        self.max_running = 1
        self._running: dict[str, _Running] = {}
        self._submitting: set[asyncio.Task[WorkState]] = set()  # the event loop itself keeps none of its tasks
        self._tending: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._renewed = 0.0

    @property
    def survives(self) -> bool:
        """Whether it is done even where this process ends."""
        return self._values.is_shared

    async def submit(self, id: str, given: bytes, owner: Owner, *, for_s: float, about: JsonObject | None = None) -> WorkState:
        """It is to be done within so long. An id that is there already is not submitted anew: its state is told. Cancelled: it is submitted
        whole all the same, or not at all. Raises `KeptFull`."""
        state = WorkState(id, self._now(), self._now() + for_s, about=about or {})
        submitting = asyncio.create_task(self._submit(state, given, owner, for_s))
        self._submitting.add(submitting)
        submitting.add_done_callback(self._submitting.discard)
        return await asyncio.shield(submitting)

    async def _submit(self, state: WorkState, given: bytes, owner: Owner, for_s: float) -> WorkState:
        kinds, id = self._kinds(), state.id
        if not await self._values.put(kinds.state, id, state.to_bytes(), owner):
            return await self.state(id, owner) or state
        try:
            await self._values.put(kinds.given, id, given, owner)
            await self._leases.open(OpenWork(id, owner.tenant), for_s + kinds.state.keep_s)
        except BaseException:
            await self._values.delete(kinds.state, id, owner)
            raise
        self.tend()
        self._wanted.set()
        return state

    async def state(self, id: str, owner: Owner) -> WorkState | None:
        """None: there is none, it is another's, or its time is over."""
        running = self._running.get(id)
        if running is not None and running.owner.tenant == owner.tenant:
            return running.state
        found = await self._values.get(self._kinds().state, id, owner)
        return WorkState.of(found) if found is not None else None

    async def listed(self, owner: Owner, *, after: str | None = None, limit: int) -> Sequence[WorkState]:
        """The tenant's own, the newest first, behind the one of the id `after`."""
        ids = [listed.id for listed in await self._values.listed(self._kinds().state, owner)]
        ids = ids[ids.index(after) + 1 :] if after in ids else ids
        found = [await self.state(id, owner) for id in ids[:limit]]
        return [state for state in found if state is not None]

    async def cancel(self, id: str, owner: Owner) -> WorkState | None:
        """It is done no further; what is over stays as it is. None as for `state`."""
        state = await self.state(id, owner)
        if state is None or state.status.is_over:
            return state
        await self._leases.call_off(id, max(1.0, state.until - self._now()) + self._kinds().state.keep_s)
        running = self._running.get(id)
        if running is not None and running.task is not None:
            await self._stop(running)
            return running.state
        if await self._leases.take(id):  # nobody does it
            state = replace(state, status=Status.CANCELLED, ended=self._now())
            await self._over(_Running(OpenWork(id, owner.tenant), owner, state))
            return state
        return await self.state(id, owner)

    async def forget(self, id: str, owner: Owner) -> WorkState | None:
        """Cancels it, and keeps nothing of it: what is kept after this by who still does it, that one deletes. Its last state."""
        state = await self.cancel(id, owner)
        if state is not None:
            running = self._running.get(id)
            if running is not None and running.task is not None:
                await asyncio.wait([running.task])  # it is over, and its end is being written down
            for kind in (self._kinds().given, self._kinds().state):
                await self._values.delete(kind, id, owner)
            await self._forgotten(id, owner)
        return state

    def tend(self) -> None:
        """Does what is to be done, from now on. Idempotent."""
        if self.worker is not None and (self._tending is None or self._tending.done()):
            self._tending = asyncio.create_task(self._tend(), context=Context())  # of no request, which Serve may call off

    async def close(self) -> None:
        """What runs is left to others, from the beginning."""
        if self._submitting:
            await asyncio.wait(set(self._submitting))
        if self._tending is not None:
            await stopped(self._tending)
        for running in list(self._running.values()):
            if running.task is not None:
                await stopped(running.task)

    def _kinds(self) -> WorkKinds:
        if self.kinds is None:
            raise Unavailable("no work is done here yet; try again", retry_after_s=1.0)
        return self.kinds

    async def _tend(self) -> None:
        while True:
            try:
                await self._round()
            except TriptychError as error:
                logger.warning("kept work is not looked after now: %s", error)
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._round_s):
                    await self._wanted.wait()

    async def _round(self) -> None:
        now = self._now()
        if now - self._renewed >= self._renew_s or now < self._renewed:
            self._renewed = now
            for running in list(self._running.values()):
                await self._look_after(running)
        for running in list(self._running.values()):
            if running.is_news:
                running.is_news = False
                if not await self._save(running):
                    await self._stop(running)
        await self._begin_some()

    async def _look_after(self, running: _Running) -> None:
        if await self._leases.is_called_off(running.open.id):
            await self._stop(running)
        elif not await self._leases.hold(running.open.id) and running.task is not None:
            running.task.cancel()  # somebody else does it

    async def _stop(self, running: _Running) -> None:
        running.is_called_off = True
        if running.task is not None:
            await stopped(running.task)
        if not running.state.status.is_over:  # it was stopped before its first step
            running.state = replace(running.state, status=Status.CANCELLED, ended=self._now())
            await self._over(running)

    async def _begin_some(self) -> None:
        """Of what is open, as much as there is room for: of each tenant as of the others. One of which nothing runs doesn't wait for the
        work of others, which may take a day."""
        if self.max_running < 1:
            return
        worker, waiting = self.worker, [work for work in await self._leases.all_open() if work.id not in self._running]
        shares = Counter(running.open.tenant for running in self._running.values())
        while waiting and worker is not None:
            work = min(waiting, key=lambda each: shares[each.tenant])
            if shares[work.tenant] and len(self._running) >= self.max_running:
                return
            waiting.remove(work)
            owner = worker.owner_of(work.tenant)
            if owner is not None and await self._leases.take(work.id):
                await self._begin(work, owner, worker)
                shares[work.tenant] += work.id in self._running

    async def _begin(self, work: OpenWork, owner: Owner, worker: Worker) -> None:
        kinds = self._kinds()
        state = WorkState.of(await self._values.get(kinds.state, work.id, owner) or b"")
        given = await self._values.get(kinds.given, work.id, owner)
        if state is not None and state.status.is_over:
            await self._leases.done(work)
            return
        if state is None or given is None:  # by what is known here; another process may read it, and else its time ends it
            await self._leases.let_go(work.id)
            return
        running = self._running[work.id] = _Running(work, owner, state)
        task = Task(work.id, given, owner, state.created, state.until, state.about)
        running.task = asyncio.create_task(self._run(running, task, worker))
        running.task.add_done_callback(lambda _: self._gone(running))

    def _gone(self, running: _Running) -> None:
        """However it ended: also before its first step."""
        if self._running.get(running.open.id) is running:
            del self._running[running.open.id]

    async def _run(self, running: _Running, task: Task, worker: Worker) -> None:
        try:
            running.state = await self._outcome(running, task, worker)
        except asyncio.CancelledError:
            if not running.is_called_off:
                await asyncio.shield(self._left(running))
                raise
            running.state = replace(running.state, status=Status.CANCELLED, ended=self._now())
        except Exception as error:  # whatever it is: it is the work's
            if not isinstance(error, TriptychError):
                logger.exception("work %s failed", task.id)
            told = worker.told_error(task.id, error)
            running.state = replace(running.state, status=Status.FAILED, ended=self._now(), error=told)
        await asyncio.shield(self._over(running))

    async def _outcome(self, running: _Running, task: Task, worker: Worker) -> WorkState:
        """Its last state. Raises what it fails with."""
        if await self._leases.is_called_off(task.id):
            return replace(running.state, status=Status.CANCELLED, ended=self._now())
        if running.state.tries >= MAX_TRIES:
            raise ReplicaLost(f"the processes that did {task.id} ended under it, {MAX_TRIES} of them")
        running.state = replace(running.state, tries=running.state.tries + 1, status=Status.RUNNING, started=self._now())
        with contextlib.suppress(Unavailable):
            if not await self._save(running):
                return replace(running.state, status=Status.CANCELLED, ended=self._now())
        while True:
            worker = self.worker or worker
            try:
                told = await self._in_time(worker.run(task, lambda told: self._hear(running, told)), task)
            except Overloaded as error:
                running.state = replace(running.state, status=Status.QUEUED, started=None)
                running.is_news = True
                await self._in_time(asyncio.sleep(min(MAX_PAUSE_S, error.retry_after_s or 1.0)), task)
                running.state = replace(running.state, status=Status.RUNNING, started=self._now())
                running.is_news = True
                continue
            return replace(running.state, status=Status.DONE, ended=self._now(), told=told)

    async def _in_time(self, work: Coroutine[Any, Any, T], task: Task) -> T:
        try:
            async with asyncio.timeout(max(0.0, task.until - self._now())) as timer:
                return await work
        except TimeoutError:
            if not timer.expired():
                raise
            raise DeadlineExceeded(f"its time of {task.until - task.created:.0f} s is up") from None

    def _hear(self, running: _Running, told: JsonObject) -> None:
        running.state = replace(running.state, told=told)
        running.is_news = True

    async def _save(self, running: _Running) -> bool:
        """False: it was deleted, and so called off."""
        return await self._values.replace(self._kinds().state, running.open.id, running.state.to_bytes(), running.owner)

    async def _over(self, running: _Running) -> None:
        """Writes down how it ended, before anybody else may take it."""
        try:
            is_kept = await self._save(running)
            await self._leases.done(running.open)
            await self._values.delete(self._kinds().given, running.open.id, running.owner)
            if not is_kept:
                await self._forgotten(running.open.id, running.owner)
        except TriptychError as error:
            logger.warning("the end of work %s is not kept, and it may be done again: %s", running.open.id, error)
        finally:
            self._gone(running)
            self._wanted.set()

    async def _forgotten(self, id: str, owner: Owner) -> None:
        if self.worker is not None:
            await self.worker.forget(id, owner)

    async def _left(self, running: _Running) -> None:
        """To whoever takes it next. That this process has begun it counts for nothing: it did not end under it."""
        self._gone(running)
        with contextlib.suppress(TriptychError):
            if await self._leases.hold(running.open.id):
                running.state = replace(running.state, status=Status.QUEUED, tries=max(0, running.state.tries - 1))
                await self._save(running)
                await self._leases.let_go(running.open.id)
