"""An event loop that stops turning is found out, and told where it stopped; one that turns is left alone."""

import asyncio
import threading

from pipelines.cluster.loop_watch import LoopWatch
from tests.stages.fakes import PATIENCE_S


class Told:
    def __init__(self) -> None:
        self.where = ""
        self._told = threading.Event()

    def __call__(self, where: str) -> None:
        self.where = where
        self._told.set()

    def wait(self) -> bool:
        return self._told.wait(PATIENCE_S)

    def was_told(self) -> bool:
        return self._told.is_set()


async def test_a_loop_that_something_holds_up_is_found_out() -> None:
    told = Told()
    watch = LoopWatch(0.01, told, period_s=0.001, grace_s=1.0)

    def check_that_never_ends() -> None:
        assert told.wait()  # on the event loop's own thread

    check_that_never_ends()
    assert "check_that_never_ends" in told.where
    watch.close()


async def test_a_loop_that_turns_is_left_alone_and_so_is_one_that_is_late_but_comes_back() -> None:
    told, late = Told(), threading.Event()
    watch = LoopWatch(0.01, told, period_s=0.001, grace_s=PATIENCE_S)
    for _ in range(100):
        await asyncio.sleep(0.001)
    late.wait(0.1)  # over its limit, within its grace
    for _ in range(10):
        await asyncio.sleep(0.001)
    assert not told.was_told()
    watch.close()


def test_a_loop_that_has_ended_is_no_longer_watched() -> None:
    told = Told()

    async def run() -> LoopWatch:
        return LoopWatch(1.0, told, period_s=0.001, grace_s=1.0)

    before = threading.active_count()
    asyncio.run(run())
    while threading.active_count() > before:  # pytest's timeout ends it
        threading.Event().wait(0.001)
    assert not told.was_told()
