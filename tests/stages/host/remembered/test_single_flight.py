"""One computation for all who wait, which belongs to none of them."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar

import pytest

from stages.contract.errors import Cancelled, StageFailed
from stages.host.remembered.single_flight import Flight


class Work:
    """A computation in the test's hands."""

    def __init__(self) -> None:
        self.result: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.remembered = asyncio.Event()
        self.was_cancelled = False

    async def compute(self, flight: Flight[int]) -> None:
        try:
            flight.set_result(await self.result)
            await self.remembered.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise


def join(flight: Flight[int]) -> "asyncio.Future[int]":
    waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    flight.join(waiter)
    return waiter


async def turn(until: Callable[[], bool]) -> None:
    for _ in range(100):
        if until():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come to that")


async def test_everyone_gets_the_result() -> None:
    work = Work()
    flight = Flight(work.compute)
    waiters = [join(flight) for _ in range(3)]
    work.result.set_result(7)
    assert await asyncio.gather(*waiters) == [7, 7, 7]
    work.remembered.set()
    await flight.ended()


async def test_whoever_comes_while_it_is_being_remembered_gets_the_result_at_once() -> None:
    work = Work()
    flight = Flight(work.compute)
    first = join(flight)
    work.result.set_result(7)
    await first
    late = join(flight)
    assert late.result() == 7
    work.remembered.set()
    await flight.ended()


async def test_it_is_cancelled_when_the_last_one_has_left_and_not_before() -> None:
    work = Work()
    flight = Flight(work.compute)
    first, second = join(flight), join(flight)
    await asyncio.sleep(0)
    flight.leave(first)
    await asyncio.sleep(0)
    assert not work.was_cancelled
    assert not flight.has_failed
    flight.leave(second)
    assert flight.has_failed  # nobody may join it any more
    await flight.ended()
    assert work.was_cancelled


async def test_leaving_after_the_result_does_not_stop_the_remembering() -> None:
    work = Work()
    flight = Flight(work.compute)
    waiter = join(flight)
    work.result.set_result(7)
    await waiter
    flight.leave(waiter)
    work.remembered.set()
    await flight.ended()
    assert not work.was_cancelled


async def test_everyone_gets_the_error_as_a_copy_of_their_own() -> None:
    work = Work()
    flight = Flight(work.compute)
    waiters = [join(flight) for _ in range(2)]
    error = StageFailed("bad luck", param="seed", retry_after_s=2.0)
    error.__cause__ = OSError("worse luck")
    work.result.set_exception(error)
    caught = [
        failure for failure in await asyncio.gather(*waiters, return_exceptions=True) if isinstance(failure, StageFailed)
    ]
    assert [(own.message, own.param, own.retry_after_s) for own in caught] == [("bad luck", "seed", 2.0)] * 2
    assert all(own.__cause__ is error.__cause__ for own in caught)
    assert len({id(own) for own in (error, *caught)}) == 3
    assert flight.has_failed


async def test_a_waiter_that_was_ended_by_others_is_left_alone() -> None:
    work = Work()
    flight = Flight(work.compute)
    ended, waiting = join(flight), join(flight)
    ended.set_exception(Cancelled("enough"))
    flight.leave(ended)
    work.result.set_result(7)
    assert await waiting == 7
    work.remembered.set()
    await flight.ended()


async def test_a_flight_that_is_cancelled_from_outside_leaves_nobody_waiting() -> None:
    work = Work()
    flight = Flight(work.compute)
    waiter = join(flight)
    await turn(lambda: not work.result.done())
    work.result.cancel()
    with pytest.raises(Cancelled):
        await waiter
    await flight.ended()


async def test_it_says_when_it_is_over() -> None:
    work = Work()
    flight = Flight(work.compute)
    over: list[bool] = []
    flight.add_done_callback(lambda: over.append(True))
    join(flight)
    work.result.set_result(1)
    work.remembered.set()
    await flight.ended()
    await turn(lambda: over == [True])


CARRIED: ContextVar[str] = ContextVar("carried", default="nothing")


async def test_it_carries_nothing_of_the_request_that_began_it_along() -> None:
    async def compute(flight: Flight[str]) -> None:
        flight.set_result(CARRIED.get())

    CARRIED.set("the request's id")
    flight = Flight(compute)
    waiter: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    flight.join(waiter)
    assert await waiter == "nothing"
    await flight.ended()


async def test_called_off_it_tells_everyone_why_unless_the_result_is_there() -> None:
    works = [Work(), Work()]
    unfinished, finished = (Flight(work.compute) for work in works)
    waiters = [join(unfinished), join(finished)]
    works[1].result.set_result(7)
    assert await waiters[1] == 7
    for flight in (unfinished, finished):
        flight.call_off(StageFailed("enough"))
    with pytest.raises(StageFailed, match="enough"):
        await waiters[0]
    works[1].remembered.set()
    await asyncio.gather(unfinished.ended(), finished.ended())
    assert [work.was_cancelled for work in works] == [True, False]
