"""One computation for everyone in this process who wants the same name at the same moment.

A flight belongs to nobody: it is a task of its own, which whoever waits for it may join and leave. It is cancelled only when
the last one has left, so that a request that goes away never takes others with it. It starts in an empty `contextvars.Context`:
what a request's context carries along (Ray Serve's id, by which the calls of a cancelled request are cancelled) is not its own.
Knows neither stages nor the cache.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Generic, TypeVar

from stages.contract.errors import Cancelled, TriptychError

T = TypeVar("T")


class Flight(Generic[T]):
    """One computation and those who wait for it. `compute` says when there is a result by calling `set_result`; what it does
    after that (remembering the result) is waited for by nobody, but keeps latecomers from computing it again. One event loop.
    """

    def __init__(self, compute: Callable[["Flight[T]"], Coroutine[Any, Any, None]]) -> None:
        self._result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiters: set[asyncio.Future[T]] = set()
        self._task = asyncio.get_running_loop().create_task(self._run(compute), context=Context())

    def set_result(self, result: T) -> None:
        """Everyone who waits gets it."""
        if not self._result.done():
            self._result.set_result(result)
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(result)

    def set_exception(self, error: Exception) -> None:
        """Everyone who waits gets the error, each a copy of their own."""
        if not self._result.done():
            self._result.cancel()
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_exception(error.for_request() if isinstance(error, TriptychError) else error)

    @property
    def has_failed(self) -> bool:
        return self._result.cancelled()

    def join(self, waiter: "asyncio.Future[T]") -> None:
        """It gets the result, unless it is resolved otherwise before (a deadline). To be followed by `leave` in any case."""
        if self._result.done() and not self._result.cancelled():
            waiter.set_result(self._result.result())
        self._waiters.add(waiter)

    def leave(self, waiter: "asyncio.Future[T]") -> None:
        self._waiters.discard(waiter)
        if waiter.done() and not waiter.cancelled():
            waiter.exception()  # whoever leaves has seen it, or doesn't care
        if not self._waiters:
            self.call_off(Cancelled("nobody waits for it any more"))

    def call_off(self, error: TriptychError) -> None:
        """Ends the computation; whoever waits gets the error. What is there already is remembered all the same."""
        if not self._result.done():
            self.set_exception(error)
            self._task.cancel()

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        self._task.add_done_callback(lambda _: callback())

    async def ended(self) -> None:
        """Returns once nothing more happens in its name."""
        await asyncio.wait([self._task])

    async def _run(self, compute: Callable[["Flight[T]"], Coroutine[Any, Any, None]]) -> None:
        try:
            await compute(self)
        except Exception as error:
            self.set_exception(error)
        except asyncio.CancelledError:  # nobody waits, or the event loop is ending
            self.set_exception(Cancelled("the computation was cancelled"))
            raise
