"""Several things at once whose fate is one: the first failure, or whoever stops waiting, calls off all of them.

asyncio's `gather` leaves the others running when one fails, and so do tasks that nobody owns. Everything here has ended when its
caller goes on, however that is. Decides which error is told: the first one itself, not a group of what followed from it. Knows
nothing of what runs.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, in order. The first failure calls off what is unfinished, and is raised itself; so does being cancelled."""
    # No `TaskGroup`: in Python 3.11 its caller stays marked as cancelled after a failure, and time limits around it misread that.
    tasks = [asyncio.create_task(work) for work in works]
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failed = next((task for task in tasks if task.done() and not task.cancelled() and task.exception()), None)
    finally:
        await stopped(*tasks)
    return [task.result() for task in (tasks if failed is None else [failed])]


async def stopped(*tasks: asyncio.Future[Any]) -> None:
    """Cancels the tasks and waits until they have ended; how they ended is of no interest."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def ended(works: Iterable[Coroutine[Any, Any, T]]) -> list[T | BaseException]:
    """For what must be done whatever becomes of the rest (closing): every one runs to its end, and is told with how it ended."""
    return await asyncio.gather(*works, return_exceptions=True)
