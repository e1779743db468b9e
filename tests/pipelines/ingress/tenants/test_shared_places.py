"""HTTP replicas hold one another's places: who was refused by one of them finds room at any."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from cache.store import MemoryStore, Store, StoreDown
from pipelines.ingress.app import Kept
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.tenants.between_processes import GONE_S
from pipelines.ingress.tenants.shared_places import PLACES, SharedPlaces
from pipelines.routing.waitlist import Asked, Waitlist
from stages.contract.errors import Unavailable
from tests.pipelines.ingress.kept.workers import Clock, SharedStore

TIME_S = 10.0


def asked(key: str) -> Asked:
    return Asked(key, 0, {"see.llm": 1.0})


class Process:
    def __init__(self, clock: Clock, store: MemoryStore | None) -> None:
        settings = IngressSettings()
        self.waitlist, self.clock, self.kept = Waitlist(), clock, Kept.new(settings, store=store)
        self.places = SharedPlaces(self.waitlist, self.kept.values, settings.server(), clock=clock)

    def wait_s(self, key: str, late_s: float = -0.5) -> float:
        return self.waitlist.wait_s(asked(key), late_s, self.clock(), allowed_s=TIME_S, promised_late_s=late_s)

    async def exchange(self) -> None:
        await self.places.exchange()


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def two(clock: Clock) -> AsyncIterator[tuple[Process, Process]]:
    store = SharedStore(2**20)
    found = Process(clock, store), Process(clock, store)
    yield found
    for process in found:
        process.kept.threads.close()


async def test_who_was_refused_by_one_is_known_to_the_other_and_a_newcomer_leaves_room_there(
    two: tuple[Process, Process], clock: Clock
) -> None:
    one, other = two
    told_s = one.wait_s("first", 2.0)
    await one.exchange()
    await other.exchange()
    clock.now += told_s
    assert other.wait_s("newcomer") > 0
    assert other.wait_s("first") == 0
    assert "first" not in held(other)
    await other.exchange()  # still told by the first, which has not heard of it
    assert "first" not in held(other)
    await one.exchange()
    assert "first" not in held(one)


async def test_who_was_refused_by_a_process_that_has_ended_since_finds_room_all_the_same(
    two: tuple[Process, Process], clock: Clock
) -> None:
    one, other = two
    told_s = one.wait_s("first", 2.0)
    one.wait_s("second", 2.0)
    await one.exchange()
    await other.exchange()
    await other.kept.values.ask(lambda there: there.delete(f"{PLACES}:{one.places._between.process}"))
    await other.exchange()
    clock.now += told_s
    assert other.wait_s("newcomer") > 0
    assert other.wait_s("first") == 0
    clock.now += 60.0  # whoever doesn't come isn't waited for
    other.wait_s("let in")
    assert held(other) == set()
    await other.exchange()
    assert other.waitlist._of_others == {}


async def test_what_another_version_wrote_is_passed_over(two: tuple[Process, Process]) -> None:
    one, other = two
    salt = one.places.owner.salt
    unknown: list[object] = [
        {},
        {"places": [], "taken": {}},
        {"number": 1, "places": [[1]], "taken": {}},
        {"number": 1, "places": [], "taken": []},
        [],
    ]

    def write(store: Store) -> None:
        one.places._between.write(store, PLACES, unknown.pop(), GONE_S, salt)

    while unknown:
        one.wait_s("first", 2.0)
        other.wait_s("somebody", 0.1)
        await one.kept.values.ask(write)
        await other.exchange()
        assert "first" not in held(other)
    await one.exchange()
    await other.exchange()
    assert "first" in held(other)


async def test_nothing_is_told_while_nobody_is_refused(two: tuple[Process, Process]) -> None:
    one, _ = two
    one.wait_s("let in")
    await one.exchange()
    assert await one.kept.values.ask(lambda store: store.members(PLACES)) == []


async def test_without_a_store_that_answers_each_holds_its_own(
    two: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    one, other = two
    one.wait_s("first", 2.0)
    told_s = other.wait_s("somebody", 0.1)
    await one.exchange()
    await other.exchange()

    def down(self: SharedStore, index: str) -> list[str]:
        raise StoreDown

    monkeypatch.setattr(SharedStore, "members", down)
    with pytest.raises(Unavailable):
        await other.exchange()
    assert held(other) == {"first", "somebody"}
    clock.now += told_s
    assert other.wait_s("somebody") == 0


async def test_it_goes_on_by_itself(two: tuple[Process, Process]) -> None:
    one, other = two
    one.wait_s("first", 2.0)
    other.wait_s("somebody", 0.1)
    for process in two:
        process.places.tend()
    async with asyncio.timeout(30):
        while not (held(one) >= {"somebody"} and held(other) >= {"first"}):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    for process in two:
        await process.places.close()


def held(process: Process) -> set[str]:
    return {place.asked.key for place in (*process.waitlist._due, *process.waitlist._coming)}
