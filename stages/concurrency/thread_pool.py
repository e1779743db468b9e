"""A few threads for one purpose, so that no kind of work can fill the threads that another needs.

asyncio's default executor is one pool for everything: eight slow name look-ups hold up every prompt. Here work has a pool of its kind
(`ThreadPool`), where much and little of it must not wait for one another two (`TwoLanes`), and what may hang, and can't be stopped,
a thread of its own (`DaemonThreads`). Decides how many may wait or run, and whose turn it is, and refuses the rest; knows nothing of what
runs. Whoever stops waiting gives up what has not started.
"""

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import ParamSpec, TypeVar, cast

from stages.contract.errors import Overloaded, Unavailable
from stages.contract.wanted import wanted_while

P = ParamSpec("P")
R = TypeVar("R")

RETRY_AFTER_S = 1.0


TENANT: ContextVar[str] = ContextVar("tenant", default="")
"""For whom a pool is asked for work, and for whom a thread works."""


@contextmanager
def working_for(tenant: str) -> Iterator[None]:
    """What is done inside is done for this tenant."""
    before = TENANT.set(tenant)
    try:
        yield
    finally:
        TENANT.reset(before)


class ThreadPool:
    """`purpose` names it in messages and in threads' names. Threads start when they are first needed. Tenants take turns, so that nobody
    waits behind all that another wants; where the line is full, whoever holds less than an equal part of it is let in all the same.
    `turn_within_s`: nobody waits longer for a thread; None: or for ever. For one event loop."""

    def __init__(self, purpose: str, *, threads: int, max_waiting: int, turn_within_s: float | None = None) -> None:
        self._purpose, self._threads, self._max_waiting, self._turn_within_s = purpose, threads, max_waiting, turn_within_s
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=purpose)
        self._num_running, self._num_waiting = 0, 0
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}  # the tenant whose turn it is comes first
        self._closed = False

    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns or raises; of its caller's context it knows the tenant alone. Raises `Overloaded` where
        `max_waiting` wait already, its turn has not come in time, or the system has no thread for it; `Unavailable` once it is closed.
        Cancelled: what has not started never does; what has is unwanted from then on (`stages/contract/wanted.py`), and takes its thread
        until it looks."""
        if self._closed:
            raise self._ended()
        if self._num_running < self._threads:
            self._num_running += 1
        else:
            await self._turn(TENANT.get())
            if self._closed:
                raise self._ended()
        given_up = threading.Event()
        future = self._begun(_called_for, TENANT.get(), given_up, function, *args, **kwargs)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._next) if not loop.is_closed() else None)
        try:
            return await asyncio.wrap_future(future)
        finally:
            given_up.set()

    def __len__(self) -> int:
        """What waits or runs."""
        return self._num_running + self._num_waiting

    def close(self) -> None:
        """What has not started never does; waits for nobody."""
        self._closed = True
        for line in self._lines.values():
            for waiter in line:
                if not waiter.done():
                    waiter.set_exception(self._ended())
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _begun(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """The executor has taken the work by the time that it finds that the system has no thread for it: then nothing is left of it."""
        call = [partial(function, *args, **kwargs)]
        try:
            return self._executor.submit(lambda: call.pop()())
        except RuntimeError as error:
            call.clear()
            self._next()
            raise Overloaded(f"there is no thread for {self._purpose}", retry_after_s=RETRY_AFTER_S) from error

    def _ended(self) -> Unavailable:
        return Unavailable(f"{self._purpose} has ended here; try again", retry_after_s=RETRY_AFTER_S)

    async def _turn(self, tenant: str) -> None:
        """Returns when a thread is the tenant's."""
        line = self._lines.get(tenant, deque())
        part = self._max_waiting // (len(self._lines) + (tenant not in self._lines))
        if self._num_waiting >= self._max_waiting and len(line) >= part:
            raise Overloaded(f"{self._max_waiting} requests wait for {self._purpose} already", retry_after_s=RETRY_AFTER_S)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(tenant, line).append(waiter)
        self._num_waiting += 1
        try:
            async with asyncio.timeout(self._turn_within_s):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._next()  # its turn had come
            else:
                self._leave(tenant, waiter)
            if isinstance(error, TimeoutError):
                raise Overloaded(f"no thread was free in time for {self._purpose}", retry_after_s=RETRY_AFTER_S) from None
            raise

    def _leave(self, tenant: str, waiter: "asyncio.Future[None]") -> None:
        line = self._lines[tenant]
        line.remove(waiter)
        self._num_waiting -= 1
        if not line:
            del self._lines[tenant]

    def _next(self) -> None:
        """A thread is free: it is the next one's whose turn it is."""
        for tenant, line in list(self._lines.items()):
            waiter = next((waiter for waiter in line if not waiter.done()), None)
            if waiter is not None:
                self._leave(tenant, waiter)
                if line:
                    self._lines[tenant] = self._lines.pop(tenant)
                waiter.set_result(None)
                return
        self._num_running -= 1


class TwoLanes:
    """Two pools for one purpose, so that what is soon done never waits behind what takes long: what weighs more than `small` (of
    whatever unit the caller counts in) has a single thread of its own. What weighs no more than `inline` is done at once: a thread
    would cost more."""

    def __init__(self, purpose: str, *, threads: int, max_waiting: int, small: int, inline: int = -1) -> None:
        self._small, self._inline = small, inline
        self._short = ThreadPool(purpose, threads=threads, max_waiting=max_waiting)
        self._long = ThreadPool(f"{purpose} (large)", threads=1, max_waiting=max_waiting)

    async def run(self, size: int, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """As `ThreadPool.run`."""
        if size <= self._inline:
            return function(*args, **kwargs)
        return await self.run_apart(size, function, *args, **kwargs)

    async def run_apart(self, size: int, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same, but never at once: of work that may take long however little it weighs."""
        lane = self._short if size <= self._small else self._long
        return await lane.run(function, *args, **kwargs)

    def __len__(self) -> int:
        """What waits or runs."""
        return len(self._short) + len(self._long)

    def close(self) -> None:
        self._short.close()
        self._long.close()


class DaemonThreads:
    """For calls that may hang, and that nothing can stop: a thread for each, which no process waits for when it exits. `doing` says
    what they do, in messages and in threads' names. Nothing waits here: who gives a call up leaves it behind, where it takes one of
    `max_threads` places until it ends; where they are shared, no tenant takes more than it leaves to the others. For any event loop."""

    def __init__(self, doing: str, *, max_threads: int, is_shared: bool = False) -> None:
        self._doing, self._max_threads, self._is_shared = doing, max_threads, is_shared
        self._running, self._lock = Counter[str](), threading.Lock()

    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns or raises; it runs in no context of its own. Raises `Overloaded` where `max_threads` run
        already, or as many of them for this tenant as are free. Cancelled: it goes on unheeded."""
        future, tenant = Future[R](), TENANT.get() if self._is_shared else ""

        def work() -> None:
            answer, failure = None, None
            try:
                answer = _called(function, *args, **kwargs)
            except BaseException as error:
                failure = error
            self._ended(tenant)
            if not future.set_running_or_notify_cancel():
                return
            if failure is not None:
                future.set_exception(failure)
            else:
                future.set_result(cast("R", answer))

        self._begin(tenant)
        try:
            threading.Thread(target=work, name=self._doing, daemon=True).start()
        except RuntimeError as error:  # the system has no more
            self._ended(tenant)
            raise Overloaded(f"there is no thread for {self._doing}", retry_after_s=RETRY_AFTER_S) from error
        return await asyncio.wrap_future(future)

    def __len__(self) -> int:
        """What runs, waited for or not."""
        return self._running.total()

    def _begin(self, tenant: str) -> None:
        with self._lock:
            free = self._max_threads - self._running.total()
            if free <= 0 or (tenant and 0 < free <= self._running[tenant]):
                raise Overloaded(f"{len(self)} threads are {self._doing} already", retry_after_s=RETRY_AFTER_S)
            self._running[tenant] += 1

    def _ended(self, tenant: str) -> None:
        with self._lock:
            self._running[tenant] -= 1
            if not self._running[tenant]:
                del self._running[tenant]


def _called_for(tenant: str, given_up: threading.Event, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    with working_for(tenant), wanted_while(lambda: not given_up.is_set()):
        return _called(function, *args, **kwargs)


def _called(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """A future of asyncio's takes no `StopIteration`: whoever waits would wait for ever."""
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        raise RuntimeError(f"{function} raised StopIteration") from error
