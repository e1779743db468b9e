import asyncio
import re
import sys
import threading
from pathlib import Path

import pytest

from stages.concurrency.thread_pool import TENANT, DaemonThreads, ThreadPool, TwoLanes
from stages.contract.errors import Cancelled, Overloaded, Unavailable
from stages.contract.wanted import stop_if_unwanted
from tests.stages.fakes import PATIENCE_S

ROOT = Path(__file__).parents[3]


async def test_what_a_function_returns_or_raises_comes_back() -> None:
    pool = ThreadPool("sums", threads=1, max_waiting=1)

    assert await pool.run(sum, [1, 2]) == 3
    with pytest.raises(ZeroDivisionError):
        await pool.run(divmod, 1, 0)
    pool.close()


async def test_a_function_that_finds_nothing_more_does_not_leave_its_caller_waiting() -> None:
    pool, daemons = ThreadPool("sums", threads=1, max_waiting=1), DaemonThreads("counting", max_threads=1)

    for run in (pool.run, daemons.run):
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(run(next, iter([])), 10)
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


async def test_what_runs_when_its_caller_leaves_is_told_that_nobody_wants_it() -> None:
    pool, begun, gone, ended = ThreadPool("sums", threads=1, max_waiting=1), *(threading.Event() for _ in range(3))

    def work() -> None:
        stop_if_unwanted()
        begun.set()
        gone.wait(PATIENCE_S)
        try:
            stop_if_unwanted()
        except Cancelled:
            ended.set()

    running = asyncio.ensure_future(pool.run(work))
    await asyncio.to_thread(begun.wait, PATIENCE_S)
    running.cancel()
    await asyncio.wait([running])
    gone.set()
    assert await asyncio.to_thread(ended.wait, PATIENCE_S)
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


async def asked_for(tenant: str, pool: ThreadPool, value: int) -> int:
    TENANT.set(tenant)
    return await pool.run(sum, [value])


async def test_tenants_take_turns() -> None:
    pool, go_on, ran = ThreadPool("sums", threads=1, max_waiting=100), threading.Event(), list[str]()

    async def asked(tenant: str) -> None:
        TENANT.set(tenant)
        await pool.run(ran.append, tenant)

    running = asyncio.ensure_future(pool.run(go_on.wait))
    await asyncio.sleep(0)
    many = [asyncio.ensure_future(asked("many")) for _ in range(6)]
    await asyncio.sleep(0)
    few = [asyncio.ensure_future(asked(tenant)) for tenant in ("few", "few", "one")]
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(running, *many, *few)
    assert ran == ["many", "few", "one", "many", "few", *["many"] * 4]
    assert len(pool) == 0
    pool.close()


async def test_a_full_line_lets_in_whoever_holds_less_than_an_equal_part() -> None:
    pool, go_on = ThreadPool("sums", threads=1, max_waiting=4), threading.Event()
    running = asyncio.ensure_future(pool.run(go_on.wait))
    waiting = [asyncio.ensure_future(asked_for("many", pool, 1)) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await asked_for("many", pool, 1)
    others = [asyncio.ensure_future(asked_for("few", pool, 2)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await asked_for("few", pool, 2)
    go_on.set()
    assert await asyncio.gather(running, *waiting, *others) == [True, 1, 1, 1, 1, 2, 2]
    pool.close()


async def test_whoever_leaves_when_its_turn_has_come_passes_it_on() -> None:
    pool, go_on = ThreadPool("sums", threads=1, max_waiting=9), threading.Event()
    running = asyncio.ensure_future(pool.run(go_on.wait))
    leaving = [asyncio.ensure_future(pool.run(sum, [1])) for _ in range(3)]
    staying = asyncio.ensure_future(pool.run(sum, [2]))
    await asyncio.sleep(0)
    go_on.set()
    await running
    for task in leaving:
        task.cancel()
    assert await staying == 2
    assert await asyncio.gather(*leaving, return_exceptions=True)
    assert await pool.run(sum, [3]) == 3
    pool.close()


async def test_a_system_without_threads_refuses_and_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, ran = ThreadPool("sums", threads=1, max_waiting=9), threading.Event()

    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without_threads:
        without_threads.setattr(threading.Thread, "start", no_more)
        refused = await asyncio.gather(*(pool.run(ran.set) for _ in range(3)), return_exceptions=True)

    assert [type(error) for error in refused] == [Overloaded] * 3
    assert len(pool) == 0
    assert await asyncio.wait_for(pool.run(sum, [1]), 5) == 1
    assert not ran.is_set()
    pool.close()


async def test_a_closed_pool_tells_who_waits() -> None:
    pool, go_on = ThreadPool("sums", threads=1, max_waiting=1), threading.Event()
    running, waiting = asyncio.ensure_future(pool.run(go_on.wait)), asyncio.ensure_future(pool.run(sum, [1]))
    await asyncio.sleep(0)
    pool.close()
    with pytest.raises(Unavailable):
        await waiting
    go_on.set()
    assert await running


async def test_a_closed_pool_takes_nothing_more() -> None:
    pool = ThreadPool("sums", threads=1, max_waiting=1)
    pool.close()
    with pytest.raises(Unavailable, match="sums has ended"):
        await pool.run(sum, [1])


async def test_what_is_small_does_not_wait_for_what_is_large() -> None:
    lanes, go_on = TwoLanes("sums", threads=1, max_waiting=1, small=10), threading.Event()
    large = asyncio.ensure_future(lanes.run(11, go_on.wait))

    assert await lanes.run(10, sum, [1, 2]) == 3
    assert not large.done()

    go_on.set()
    assert await large
    lanes.close()


async def test_what_is_not_worth_a_thread_is_done_where_it_is_asked_for() -> None:
    lanes = TwoLanes("sums", threads=1, max_waiting=0, small=10, inline=5)
    assert await lanes.run(5, threading.current_thread) is threading.main_thread()
    assert await lanes.run(6, threading.current_thread) is not threading.main_thread()
    assert await lanes.run_apart(0, threading.current_thread) is not threading.main_thread()
    lanes.close()


async def test_all_threads_of_a_purpose_that_is_nobodys_may_be_taken_for_one_tenant() -> None:
    threads, go_on, mark = DaemonThreads("closing", max_threads=2), threading.Event(), TENANT.set("a")
    hanging = [asyncio.ensure_future(threads.run(go_on.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    go_on.set()
    assert await asyncio.gather(*hanging) == [True, True]
    TENANT.reset(mark)


async def test_of_threads_for_calls_that_hang_no_tenant_takes_more_than_it_leaves() -> None:
    threads, go_on = DaemonThreads("summing", max_threads=8, is_shared=True), threading.Event()
    hanging = []
    for tenant, count in (("a", 4), ("b", 2), ("c", 1)):
        mark = TENANT.set(tenant)
        hanging += [asyncio.ensure_future(threads.run(go_on.wait)) for _ in range(count)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await threads.run(sum, [1])
        TENANT.reset(mark)
    go_on.set()
    assert await asyncio.gather(*hanging) == [True] * 7


async def test_calls_that_hang_hold_up_no_others_and_have_a_bound() -> None:
    threads, go_on = DaemonThreads("summing", max_threads=3), threading.Event()
    hanging = [asyncio.ensure_future(threads.run(go_on.wait)) for _ in range(2)]
    await asyncio.sleep(0)

    assert await threads.run(sum, [1, 2]) == 3
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 1, 0)

    hanging.append(asyncio.ensure_future(threads.run(go_on.wait)))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="3 threads are summing already"):
        await threads.run(sum, [1])
    go_on.set()
    assert await asyncio.gather(*hanging) == [True] * 3
    assert len(threads) == 0


async def test_a_call_that_is_given_up_takes_its_place_until_it_ends() -> None:
    threads, go_on = DaemonThreads("summing", max_threads=1), threading.Event()
    hanging = asyncio.ensure_future(threads.run(go_on.wait))
    await asyncio.sleep(0)

    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)
    with pytest.raises(Overloaded):
        await threads.run(sum, [1])

    go_on.set()
    while len(threads):  # noqa: ASYNC110 - they tell nobody that they have ended
        await asyncio.sleep(0)
    assert await threads.run(sum, [1]) == 1


async def test_no_process_waits_for_a_call_that_hangs() -> None:
    hangs = "import asyncio, threading; from stages.concurrency.thread_pool import DaemonThreads as Threads; " + (
        "run = Threads('hanging', max_threads=1).run; asyncio.run(asyncio.wait_for(run(threading.Event().wait), 0.01))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", hangs, stderr=asyncio.subprocess.PIPE)
    _, told = await asyncio.wait_for(process.communicate(), 60)
    assert b"TimeoutError" in told


def test_no_code_of_ours_uses_the_pool_that_is_everybodys() -> None:
    """Not by asyncio's own helpers either: `loop.getaddrinfo` runs there, too."""
    everybodys = re.compile(r"\bto_thread\b|\brun_in_executor\b|\.getaddrinfo\b(?<!socket\.getaddrinfo)|\brun_in_threadpool\b")
    found = {
        f"{path.relative_to(ROOT)}: {match}"
        for folder in ("cache", "pipelines", "stages", "demo")
        for path in (ROOT / folder).rglob("*.py")
        for match in everybodys.findall(path.read_text())
    }
    assert not found
