"""When an item is expected to be done where several tenants wait: held against the scheduler itself, batch by batch."""

from dataclasses import replace

import pytest

from stages.contract.limits import BatchLimits
from stages.contract.work import Work
from stages.engine.scheduling.scheduler import Entry, OneShotScheduler
from tests.stages.engine.scheduling.tenants import ROOM, entry, ids


class Device:
    """One-shot batches of at most `rows`: half a second, or nothing, and 0.1 for each item."""

    def __init__(self, rows: int, base_s: float = 0.5) -> None:
        self.scheduler, self.now = OneShotScheduler[str](BatchLimits(max_items=rows), ROOM), 0.0
        self._base_s = base_s
        self._num = 0

    def send(self, tenant: str, count: int, priority: int = 0) -> None:
        for _ in range(count):
            self._num += 1
            self.scheduler.add(replace(entry(f"{tenant}{self._num}", tenant), priority=priority, arrival=self.now))

    def begin(self, part: float = 0.5) -> None:
        """A batch, of which so much has passed."""
        self._chosen = self.scheduler.next_batch(self.now)
        self._took_s = self._base_s + 0.1 * self._chosen.cost
        self._ends_at = self.now + self._took_s
        self.now += part * self._took_s

    def end(self) -> list[str]:
        self.now = self._ends_at
        self.scheduler.complete(ids(self._chosen.entries), self._took_s)
        self.scheduler.check_integrity()
        return ids(self._chosen.entries)

    def run(self) -> list[str]:
        self.begin()
        return self.end()

    def is_late_by(self, tenant: str, priority: int = 0) -> float:
        """Of one more item, how many times what was expected it takes. It comes in the middle of a batch."""
        self.begin()
        expected_s = self.scheduler.load(self.now).finish_s(Work(1.0), priority, tenant)
        assert expected_s is not None
        self.scheduler.add(replace(entry("last", tenant), priority=priority, arrival=self.now))
        began = self.now
        self.end()
        while "last" not in self.run():
            pass
        return (self.now - began) / expected_s


@pytest.mark.parametrize("base_s", [0.5, 0.0])
@pytest.mark.parametrize("num_own", [0, 5, 12, 60])
def test_when_an_item_is_expected_to_be_done_follows_from_whose_turn_it_is(num_own: int, base_s: float) -> None:
    """One of a tenant with less in line, behind another one's flood: its turn comes before the line's end."""
    device = Device(4, base_s)
    device.send("many", 100)
    for _ in range(3):
        device.run()
    device.send("few", num_own)
    load = device.scheduler.load(device.now)
    assert load.tenants.keys() == ({"many", "few"} if num_own else {"many"})
    assert 0.6 < device.is_late_by("few") < 1.3


def test_ones_own_background_work_and_anothers_flood_keep_no_item_waiting() -> None:
    device = Device(4)
    device.send("many", 40)
    for _ in range(3):
        device.run()
    device.send("few", 150, priority=1)
    device.send("many", 60)
    assert 0.6 < device.is_late_by("few") < 1.3


def test_another_ones_priorities_give_no_place_before_it() -> None:
    device = Device(4)
    device.send("many", 12)
    for _ in range(3):
        device.run()
    device.send("many", 60, priority=1)
    device.send("few", 30)
    assert 0.6 < device.is_late_by("few") < 1.3


def test_who_are_not_told_apart_have_one_line() -> None:
    scheduler = OneShotScheduler[str](BatchLimits(max_items=4), ROOM)
    scheduler.add(Entry("a", "", arrival=0.0))
    assert scheduler.load(0.0).tenants == {}
