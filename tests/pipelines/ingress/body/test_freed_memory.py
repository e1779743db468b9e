"""What large bodies have left goes back to the system, and no more often than it is worth."""

import asyncio
import platform
import threading

import pytest

from pipelines.ingress.body import freed_memory
from pipelines.ingress.body.freed_memory import FreedMemory
from tests.stages.fakes import PATIENCE_S


class Trim:
    def __init__(self) -> None:
        self.threads = list[int]()
        self.began, self.may_end = threading.Event(), threading.Event()

    def __call__(self, pad: int) -> int:
        self.threads.append(threading.get_ident())
        self.began.set()
        assert self.may_end.wait(PATIENCE_S)
        return 1


async def until_called(trim: Trim, times: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(trim.threads) < times:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_once_enough_was_freed_and_never_twice_at_once() -> None:
    trim = Trim()
    freed = FreedMemory(trim, min_bytes=100, pause_s=0)
    freed.note(99)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not trim.threads
    freed.note(1)
    await until_called(trim, 1)
    for _ in range(10):  # while it runs
        freed.note(100)
        await asyncio.sleep(0)
    assert len(trim.threads) == 1
    assert threading.get_ident() not in trim.threads
    trim.may_end.set()
    await until_called(trim, 2)  # for what was freed meanwhile


async def test_where_there_is_no_such_call_nothing_happens() -> None:
    freed = FreedMemory(None, min_bytes=1, pause_s=0)
    freed.note(100)


async def test_a_system_without_threads_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    trim = Trim()
    trim.may_end.set()
    freed = FreedMemory(trim, min_bytes=1, pause_s=0)

    def start(self: threading.Thread) -> None:
        monkeypatch.undo()
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    freed.note(1)
    await asyncio.sleep(0)
    await asyncio.sleep(0.001)
    freed.note(1)
    await until_called(trim, 1)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is glibc's")
def test_glibc_has_the_call() -> None:
    trim = freed_memory._trim()
    assert trim is not None
    assert trim(0) in (0, 1)
