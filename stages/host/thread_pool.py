"""A few threads for one purpose, so that no kind of work can fill the threads that another needs.

asyncio's default executor is one pool for everything: eight slow name look-ups hold up every prompt. Decides how many may wait,
and refuses the rest; knows nothing of what runs. Whoever stops waiting gives up what has not started.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from stages.contract.errors import Overloaded

P = ParamSpec("P")
R = TypeVar("R")

RETRY_AFTER_S = 1.0


class ThreadPool:
    """`purpose` names it in messages and in threads' names. Threads start when they are first needed. For one event loop."""

    def __init__(self, purpose: str, *, threads: int, max_waiting: int) -> None:
        self._purpose, self._threads, self._max_waiting = purpose, threads, max_waiting
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=purpose)
        self._in_hand: set[Future[Any]] = set()

    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns or raises; it runs in no context of its own. Raises `Overloaded` where `max_waiting` wait
        already. Cancelled: what has not started never does; what has goes on unheeded, and its thread is taken until it ends."""
        if len(self._in_hand) >= self._threads + self._max_waiting:
            raise Overloaded(f"{self._max_waiting} requests wait for {self._purpose} already", retry_after_s=RETRY_AFTER_S)
        future: Future[R] = self._executor.submit(function, *args, **kwargs)
        loop = asyncio.get_running_loop()
        self._in_hand.add(future)
        future.add_done_callback(
            lambda done: loop.call_soon_threadsafe(self._in_hand.discard, done) if not loop.is_closed() else None
        )
        return await asyncio.wrap_future(future)

    def __len__(self) -> int:
        """What waits or runs."""
        return len(self._in_hand)

    def close(self) -> None:
        """What has not started never does; waits for nobody."""
        self._executor.shutdown(wait=False, cancel_futures=True)
