import asyncio
import threading

import pytest

from stages.contract.errors import Overloaded
from stages.host.thread_pool import ThreadPool


async def test_what_a_function_returns_or_raises_comes_back() -> None:
    pool = ThreadPool("sums", threads=1, max_waiting=1)

    assert await pool.run(sum, [1, 2]) == 3
    with pytest.raises(ZeroDivisionError):
        await pool.run(divmod, 1, 0)
    pool.close()


async def test_threads_are_named_after_their_purpose() -> None:
    pool = ThreadPool("sums", threads=1, max_waiting=1)

    assert (await pool.run(lambda: threading.current_thread().name)).startswith("sums")
    pool.close()


async def test_who_finds_the_line_full_is_refused_and_there_is_room_again_when_it_moves() -> None:
    pool, go_on = ThreadPool("sums", threads=1, max_waiting=1), threading.Event()
    running, waiting = asyncio.ensure_future(pool.run(go_on.wait)), asyncio.ensure_future(pool.run(sum, [1]))
    await asyncio.sleep(0)

    with pytest.raises(Overloaded, match="1 requests wait for sums already") as refused:
        await pool.run(sum, [2])
    assert refused.value.retry_after_s

    go_on.set()
    assert (await running, await waiting) == (True, 1)
    assert await pool.run(sum, [2]) == 2
    pool.close()


async def test_what_has_not_started_when_its_caller_leaves_never_runs() -> None:
    pool, go_on, ran = ThreadPool("sums", threads=1, max_waiting=1), threading.Event(), threading.Event()
    running, waiting = asyncio.ensure_future(pool.run(go_on.wait)), asyncio.ensure_future(pool.run(ran.set))
    await asyncio.sleep(0)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on.set()
    await running
    await pool.run(lambda: None)

    assert not ran.is_set()
    pool.close()


async def test_a_caller_who_leaves_keeps_the_thread_taken_until_its_work_ends() -> None:
    pool, go_on = ThreadPool("sums", threads=1, max_waiting=0), threading.Event()
    running = asyncio.ensure_future(pool.run(go_on.wait))
    await asyncio.sleep(0)

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    with pytest.raises(Overloaded):
        await pool.run(sum, [1])

    go_on.set()
    while len(pool):  # noqa: ASYNC110 - a pool tells nobody that it is idle
        await asyncio.sleep(0)
    assert await pool.run(sum, [1]) == 1
    pool.close()
