"""Pages on their way to the cache: handed over at once, written one piece after the other, bounded."""

import asyncio
from collections.abc import Sequence

import numpy as np

from cache.tier import Label
from cache.tiered import TieredCache
from stages.contract.pages import MadePage
from stages.engine.delivery import Call, deliver_here
from stages.host.pages.writing import MAX_WAITING_BYTES, PageWriter
from stages.host.remembered.cache_threads import CacheThreads
from stages.host.remembered.origin import remembered_as
from tests.stages.host.hosting import once
from tests.stages.host.pages.spelling import Far
from tests.stages.paged import Letters


class Desk:
    """A writer over a far tier that is as slow as the test says."""

    def __init__(self) -> None:
        self.far = Far()
        self.threads = CacheThreads(TieredCache([self.far]), "pages")
        self.num_rooms = 0
        self.lost: list[str] = []
        self.writer = PageWriter(self.threads, "letters", "origin", self.deliver, on_room=self.room, on_lost=self.lost.extend)
        self.loop = asyncio.get_running_loop()

    def deliver(self, calls: Sequence[Call]) -> None:
        self.loop.call_soon_threadsafe(deliver_here, calls)

    def room(self) -> None:
        self.num_rooms += 1

    async def close(self) -> None:
        self.far.put_gate.open()
        await self.writer.settled()
        await self.threads.close()


def page(name: str, num_bytes: int = 2, salt: str = "") -> MadePage:
    return MadePage(name, salt, Letters(np.zeros(num_bytes, np.uint8)))


async def test_pages_are_written_under_whose_they_are() -> None:
    desk = Desk()
    await asyncio.to_thread(desk.writer.take, [page("a", salt="s"), page("b", salt="t"), page("c", salt="s")])
    await once(lambda: desk.writer.metrics()["pages_exported_total"] == 3)
    assert desk.far.labels == {Label("letters", "s"), Label("letters", "t")}
    assert desk.far.holds([remembered_as(name, "origin") for name in "abc"]) == {
        remembered_as(name, "origin") for name in "abc"
    }
    assert desk.writer.metrics()["page_bytes_exported_total"] == 6
    await desk.close()


async def test_what_comes_too_fast_is_lost_and_counted_until_there_is_room_again() -> None:
    desk = Desk()
    desk.far.put_gate.close()
    half = MAX_WAITING_BYTES // 2
    desk.writer.take([page("a", half)])
    assert desk.writer.has_room()
    desk.writer.take([page("b", half), page("c", half)])
    assert not desk.writer.has_room()
    desk.writer.take([page("d")])
    assert desk.writer.metrics()["pages_dropped_total"] == 2
    assert desk.lost == ["c", "d"]
    assert desk.writer.metrics()["page_bytes_writing"] == 2 * half
    assert desk.num_rooms == 0
    desk.far.put_gate.open()
    await once(lambda: desk.writer.metrics()["pages_exported_total"] == 2)
    assert (desk.num_rooms, desk.writer.has_room()) == (1, True)
    assert desk.writer.metrics()["page_bytes_writing"] == 0
    await desk.close()


async def test_after_the_cache_has_closed_pages_are_lost() -> None:
    desk = Desk()
    await desk.close()
    desk.writer.take([page("a")])
    await desk.writer.settled()
    await once(lambda: desk.writer.metrics()["pages_dropped_total"] == 1)
    assert desk.lost == ["a"]
    assert desk.writer.metrics()["page_bytes_writing"] == 0
