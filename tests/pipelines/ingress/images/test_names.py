"""Slow names hold up nobody but those who ask for them."""

import asyncio
import socket
import threading
from collections.abc import Sequence

import pytest

from pipelines.ingress.images import names
from pipelines.ingress.images.names import NameLookUps
from stages.concurrency.thread_pool import DaemonThreads
from stages.contract.errors import Overloaded


class SlowNames:
    """Instead of the system's resolver: a name that begins with `slow` is answered when `answer` is set."""

    def __init__(self) -> None:
        self.answer, self.asked = threading.Event(), list[str]()

    def look_up(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host.startswith("slow"):
            self.answer.wait()
        if host == "unknown.example":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [f"192.0.2.{port}"]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowNames:
    slow = SlowNames()
    monkeypatch.setattr(names, "look_up", slow.look_up)
    return slow


async def test_eight_slow_names_hold_up_no_other(slow: SlowNames) -> None:
    threads = DaemonThreads("looking up names", max_threads=16)
    look_ups = NameLookUps(threads)
    waiting = [asyncio.ensure_future(look_ups(f"slow{index}.example", 80)) for index in range(8)]
    await asyncio.sleep(0)
    assert await look_ups("quick.example", 80) == ["192.0.2.80"]
    assert not any(task.done() for task in waiting)
    slow.answer.set()
    assert await asyncio.gather(*waiting) == [["192.0.2.80"]] * 8


async def test_one_name_takes_one_thread_however_many_ask_and_give_up(slow: SlowNames) -> None:
    threads = DaemonThreads("looking up names", max_threads=1)
    look_ups = NameLookUps(threads)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(look_ups("slow.example", 80), 0.001)
    last = asyncio.ensure_future(look_ups("SLOW.example", 80))
    await asyncio.sleep(0)
    assert (slow.asked, len(threads)) == (["slow.example"], 1)
    with pytest.raises(Overloaded, match="1 threads are looking up names already"):
        await look_ups("quick.example", 80)
    slow.answer.set()
    assert await last == ["192.0.2.80"]
    assert await look_ups("quick.example", 80) == ["192.0.2.80"]


async def test_an_unknown_name_is_an_error_for_each_who_asked(slow: SlowNames) -> None:
    look_ups = NameLookUps(DaemonThreads("looking up names", max_threads=4))
    told = await asyncio.gather(*[look_ups("unknown.example", 80) for _ in range(2)], return_exceptions=True)
    assert [type(error) for error in told] == [socket.gaierror] * 2
    assert slow.asked == ["unknown.example"]


async def test_the_systems_resolver_tells_each_address_once() -> None:
    assert await NameLookUps(DaemonThreads("looking up names", max_threads=1))("127.0.0.1", 80) == ["127.0.0.1"]
