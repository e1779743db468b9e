"""Work that no connection waits for: who does it, that it ends once, and what becomes of it where its process dies."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from pipelines.ingress.kept.kept_values import KeptFull, Owner
from pipelines.ingress.kept.work import MAX_TRIES, KeptWork
from pipelines.ingress.kept.work_state import Status, WorkState
from pipelines.ingress.tenants.auth import Caller
from stages.concurrency.together import stopped
from stages.contract.errors import InvalidRequest, Overloaded, Unavailable
from tests.pipelines.ingress.kept.workers import ADA, BOB, Clock, FakeWorker, SharedStore, process
from tests.stages.host.hosting import once

WAIT_S = 20


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """The event loop's other tasks go on meanwhile."""
    async with asyncio.timeout(WAIT_S):
        while not await is_so():  # noqa: ASYNC110 - a store tells nobody of its changes
            await asyncio.sleep(0.001)


async def ended(work: KeptWork, id: str) -> WorkState:
    async def is_over() -> bool:
        state = await work.state(id, ADA)
        return state is not None and state.status.is_over

    await until(is_over)
    state = await work.state(id, ADA)
    assert state is not None
    return state


async def test_what_is_submitted_is_done_and_its_outcome_is_told_to_whoever_asks_anywhere() -> None:
    clock = Clock()
    store, worker = SharedStore(10**6, clock), FakeWorker()
    here, there = process(store, clock, worker), process(store, clock, FakeWorker())
    submitted = await here.submit("a", b"a boat", ADA, for_s=60, about={"model": "m"})
    assert (submitted.status, submitted.about) == (Status.QUEUED, {"model": "m"})
    worker.open.set()
    done = await ended(there, "a")
    assert (done.status, done.told, done.tries) == (Status.DONE, {"said": "a boat"}, 1)
    assert await there.state("a", BOB) is None
    assert [state.id for state in await there.listed(ADA, limit=10)] == ["a"]
    assert await there.listed(BOB, limit=10) == []
    await here.close()


async def test_the_same_id_is_not_submitted_twice() -> None:
    clock = Clock()
    store, worker = SharedStore(10**6, clock), FakeWorker()
    worker.open.set()
    here = process(store, clock, worker)
    await here.submit("a", b"one", ADA, for_s=60)
    done = await ended(here, "a")
    assert await here.submit("a", b"two", ADA, for_s=60) == done
    assert worker.began == ["a"]
    await here.close()


class Slow(SharedStore):
    """In which the first write of what holds `slow` takes until `go` is set."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(10**6, clock)
        self.reached, self.go, self.slow = threading.Event(), threading.Event(), b""

    def write(
        self, key: str, data: bytes, *, ttl_s: float, owner: str = "", if_absent: bool = False, if_present: bool = False
    ) -> bool:
        if self.slow in data and not self.reached.is_set():
            self.reached.set()
            self.go.wait()
        return super().write(key, data, ttl_s=ttl_s, owner=owner, if_absent=if_absent, if_present=if_present)


async def test_what_a_client_submits_that_goes_meanwhile_is_done_and_told_when_it_submits_it_again() -> None:
    clock = Clock()
    store, worker = Slow(clock), FakeWorker()
    worker.open.set()
    here = process(store, clock, worker)
    submitting = asyncio.create_task(here.submit("a", b"a boat", ADA, for_s=600))
    await once(store.reached.is_set)
    await stopped(submitting)
    assert submitting.cancelled()
    store.go.set()
    await until(lambda: is_begun(worker, "a"))
    await here.submit("a", b"a boat", ADA, for_s=600)
    assert (await ended(here, "a")).status is Status.DONE
    assert worker.began == ["a"]
    await here.close()


async def test_work_of_a_process_that_died_is_taken_up_by_another_when_its_lease_has_run_out() -> None:
    clock = Clock()
    store, hanging, worker = SharedStore(10**6, clock), FakeWorker(), FakeWorker()
    dying, other = process(store, clock, hanging), process(store, clock, worker)
    await dying.submit("a", b"a boat", ADA, for_s=600)
    await until(lambda: is_begun(hanging, "a"))
    await dies(dying)
    worker.open.set()
    other.tend()
    await asyncio.sleep(0)
    assert worker.began == []
    clock.now += 16
    done = await ended(other, "a")
    assert (done.status, done.told, done.tries) == (Status.DONE, {"said": "a boat"}, 2)
    await other.close()


async def test_a_process_that_ends_in_order_leaves_its_work_to_others_at_once() -> None:
    clock = Clock()
    store, hanging, worker = SharedStore(10**6, clock), FakeWorker(), FakeWorker()
    ending, other = process(store, clock, hanging), process(store, clock, worker)
    await ending.submit("a", b"a boat", ADA, for_s=600)
    await until(lambda: is_begun(hanging, "a"))
    await ending.close()
    worker.open.set()
    other.tend()
    assert (await ended(other, "a")).tries == 1
    await other.close()


async def test_work_that_ends_the_processes_that_do_it_is_given_up() -> None:
    clock = Clock()
    store = SharedStore(10**6, clock)
    for _ in range(MAX_TRIES):
        hanging = FakeWorker()
        dying = process(store, clock, hanging)
        await dying.submit("a", b"a boat", ADA, for_s=600)
        dying.tend()
        await until(lambda hanging=hanging: is_begun(hanging, "a"))  # type: ignore[misc]
        await dies(dying)
        clock.now += 16
    worker = FakeWorker()
    last = process(store, clock, worker)
    last.tend()
    failed = await ended(last, "a")
    assert (failed.status, worker.began) == (Status.FAILED, [])
    await last.close()


async def test_who_lost_its_lease_to_another_stops() -> None:
    clock = Clock()
    store, slow, worker = SharedStore(10**6, clock), FakeWorker(), FakeWorker()
    held_up, other = process(store, clock, slow, renew_s=20), process(store, clock, worker)
    await held_up.submit("a", b"a boat", ADA, for_s=6000)
    await until(lambda: is_begun(slow, "a"))
    clock.now += 16
    other.tend()
    await until(lambda: is_begun(worker, "a"))
    clock.now += 5  # now it renews its leases
    assert slow.ended == []
    await until(lambda: is_ended(slow, "a"))
    worker.open.set()
    assert (await ended(other, "a")).status is Status.DONE
    await held_up.close()
    await other.close()


@pytest.mark.parametrize("where", ["here", "there", "nowhere"])
async def test_what_is_cancelled_is_done_no_further_wherever_it_runs(where: str) -> None:
    clock = Clock()
    store, worker = SharedStore(10**6, clock), FakeWorker()
    here, there = (
        process(store, clock, worker, max_running=0 if where == "nowhere" else 2),
        process(store, clock, FakeWorker()),
    )
    await here.submit("a", b"a boat", ADA, for_s=600)
    if where != "nowhere":
        await until(lambda: is_begun(worker, "a"))
    assert await here.cancel("a", BOB) is None
    await (here if where == "here" else there).cancel("a", ADA)
    assert (await ended(there, "a")).status is Status.CANCELLED
    assert worker.ended == worker.began
    await here.close()


@pytest.mark.parametrize("how", ["ends", "reports", "is told"])
async def test_what_is_deleted_elsewhere_does_not_come_back_when_who_does_it(how: str) -> None:
    clock = Clock()
    store, worker = SharedStore(10**6, clock), FakeWorker()
    here, there = process(store, clock, worker, renew_s=20), process(store, clock, FakeWorker())
    await here.submit("a", b"a boat", ADA, for_s=600)
    await until(lambda: is_begun(worker, "a"))
    await there.forget("a", ADA)
    if how == "ends":
        worker.open.set()
    elif how == "reports":
        worker.reports[0]({"step": 2})
    else:
        clock.now += 20
    await until(lambda: is_forgotten(worker, "a"))
    assert worker.ended == ["a"]
    assert [await each.state("a", ADA) for each in (here, there)] == [None, None]
    assert await there.listed(ADA, limit=10) == []
    await here.close()


async def test_what_is_deleted_while_its_end_is_written_down_is_gone() -> None:
    clock = Clock()
    store, worker = Slow(clock), FakeWorker()
    store.slow = b'"status": "done"'
    worker.open.set()
    here = process(store, clock, worker)
    await here.submit("a", b"a boat", ADA, for_s=600)
    await once(store.reached.is_set)
    assert (await ended(here, "a")).status is Status.DONE
    forgetting = asyncio.create_task(here.forget("a", ADA))
    store.go.set()
    await forgetting
    assert await here.state("a", ADA) is None
    assert not any(key.startswith("work:") for key in store._entries)
    await here.close()


async def test_work_that_finds_no_room_is_tried_again_and_counts_as_queued_until_then() -> None:
    clock = Clock()
    worker = FakeWorker(fails=[Overloaded("full", retry_after_s=0.01), Overloaded("full", retry_after_s=0.01)])
    worker.open.set()
    here = process(SharedStore(10**6, clock), clock, worker)
    await here.submit("a", b"a boat", ADA, for_s=600)
    done = await ended(here, "a")
    assert (done.status, done.tries, worker.began) == (Status.DONE, 1, ["a"] * 3)
    await here.close()


async def test_what_is_tried_again_is_done_by_the_newest_worker() -> None:
    clock = Clock()
    old, new = FakeWorker(fails=[Unavailable("no stage", retry_after_s=0.01)] * 1000), FakeWorker()
    here = process(SharedStore(10**6, clock), clock, old)
    await here.submit("a", b"a boat", ADA, for_s=600)
    await until(lambda: is_begun(old, "a"))
    here.worker = new
    new.open.set()
    assert (await ended(here, "a")).status is Status.DONE
    assert new.began == ["a"]
    await here.close()


async def test_a_failure_is_told_and_not_tried_again() -> None:
    clock = Clock()
    worker = FakeWorker(fails=[InvalidRequest("it is no image")])
    here = process(SharedStore(10**6, clock), clock, worker)
    await here.submit("a", b"a boat", ADA, for_s=600)
    failed = await ended(here, "a")
    assert (failed.status, failed.error) == (Status.FAILED, {"message": "it is no image"})
    assert worker.began == ["a"]
    await here.close()


async def test_work_that_is_not_done_by_its_time_fails_then() -> None:
    clock = Clock()
    here = process(SharedStore(10**6, clock), clock, FakeWorker())
    await here.submit("a", b"a boat", ADA, for_s=0.01)
    failed = await ended(here, "a")
    assert failed.error == {"message": "its time of 0 s is up"}
    await here.close()


async def test_only_so_much_runs_at_a_time_and_tenants_take_turns() -> None:
    clock = Clock()
    worker = FakeWorker()
    here = process(SharedStore(10**6, clock), clock, worker, max_running=0)
    for id in ("a1", "a2", "a3"):
        await here.submit(id, b"", ADA, for_s=600)
    await here.submit("b1", b"", BOB, for_s=600)
    here.max_running = 2
    await until(lambda: is_begun(worker, "b1"))
    assert sorted(worker.began) == ["a1", "b1"]
    worker.open.set()
    await ended(here, "a3")
    await here.close()


async def test_a_tenant_of_which_nothing_runs_does_not_wait_for_anothers_work_to_end() -> None:
    clock = Clock()
    worker = FakeWorker()
    here = process(SharedStore(10**6, clock), clock, worker)
    for id in ("a1", "a2", "a3"):
        await here.submit(id, b"", ADA, for_s=600)
    await until(lambda: is_begun(worker, "a2"))
    await here.submit("b1", b"", BOB, for_s=600)
    await here.submit("b2", b"", BOB, for_s=600)
    await until(lambda: is_begun(worker, "b1"))
    sought = len(worker.sought)
    await here._round()
    assert (sorted(worker.began), worker.ended) == (["a1", "a2", "b1"], [])
    assert len(worker.sought) == sought  # nobody else's turn is looked for
    await here.close()


@pytest.mark.parametrize("known", [{}, {"ada": Caller("ada", "another salt")}], ids=["nobody", "by another salt"])
async def test_who_can_not_read_a_piece_of_work_leaves_it_to_who_can(known: dict[str, Owner]) -> None:
    clock = Clock()
    store, blind, worker = SharedStore(10**6, clock), FakeWorker(owners=known), FakeWorker()
    worker.open.set()
    unknowing, knowing = process(store, clock, blind), process(store, clock, worker, max_running=0)
    await knowing.submit("a", b"a boat", ADA, for_s=600)
    unknowing.tend()
    await until(lambda: is_sought(blind, 3))
    knowing.max_running = 1
    assert (await ended(knowing, "a")).status is Status.DONE
    assert blind.began == []
    await unknowing.close()
    await knowing.close()


async def test_a_tenant_with_as_much_work_as_it_may_keep_is_told_which_setting_says_so() -> None:
    clock = Clock()
    here = process(SharedStore(10**6, clock), clock, FakeWorker(), max_running=0)
    for number in range(10):
        await here.submit(f"a{number}", b"", ADA, for_s=600)
    with pytest.raises(KeptFull, match=r"ingress\.kept\.jobs"):
        await here.submit("more", b"", ADA, for_s=600)
    assert (await here.submit("a4", b"", ADA, for_s=600)).id == "a4"  # which it keeps already
    await here.submit("more", b"", BOB, for_s=600)
    await here.forget("a3", ADA)
    await here.submit("more", b"", ADA, for_s=600)
    await here.close()


async def is_begun(worker: FakeWorker, id: str) -> bool:
    return id in worker.began


async def is_sought(worker: FakeWorker, times: int) -> bool:
    return len(worker.sought) >= times


async def is_forgotten(worker: FakeWorker, id: str) -> bool:
    return id in worker.forgot


async def is_ended(worker: FakeWorker, id: str) -> bool:
    return id in worker.ended


async def dies(work: KeptWork) -> None:
    """It looks after nothing any more, and tells nobody. What it was asking the store is over."""
    assert work._tending is not None
    await stopped(work._tending)
    await once(lambda: not len(work._values._pool))
    work._running.clear()
