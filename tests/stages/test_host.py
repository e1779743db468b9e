"""Stages behind the host, on an event loop: calls, streams, names, deadlines, closing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from stages.errors import (
    QueueFull,
    Unavailable,
)
from stages.host import StageHost
from stages.limits import QueueLimits
from stages.stage import Item, Reply, StreamEnd
from tests.stages.fakes import Adder, Countdown, CountFrom, Gate


@pytest.fixture
async def host() -> AsyncIterator[StageHost]:
    host = StageHost(cache=TieredCache([MemoryTier(2**20)]), replica="r1")
    yield host
    await host.close()


def total(reply: Reply) -> int:
    return int(reply.value["sum"][0])


async def once(condition: Callable[[], bool]) -> None:
    """Lets the event loop turn until the condition holds. pytest's timeout ends it."""
    while not condition():  # noqa: ASYNC110  (nobody could set an event for what another thread counts)
        await asyncio.sleep(0)


async def collect(stream: Any) -> list[object]:
    return [event async for events in stream for event in events]


async def test_a_call_answers_with_a_value_and_a_receipt(host: StageHost) -> None:
    host.add("adder", Adder())
    reply = await host.call("adder", Item("1", (2, 3)))
    assert total(reply) == 5
    receipt = reply.receipt
    assert (receipt.stage, receipt.replica, receipt.device, receipt.cache) == ("adder", "r1", "cpu", "off")
    assert (receipt.steps, receipt.batch_size) == (1, 1.0)


async def test_calls_made_while_the_device_is_busy_share_the_next_batch(host: StageHost) -> None:
    stage = Adder(run_gate=Gate(closed=True))
    host.add("adder", stage)
    first = asyncio.create_task(host.call("adder", Item("0", (0, 0))))
    await asyncio.to_thread(stage.run_gate.wait_for, 1)
    rest = [asyncio.create_task(host.call("adder", Item(str(i), (i, 0)))) for i in range(1, 6)]
    await once(lambda: stage.num_prepared == 6)
    stage.run_gate.open()
    replies = await asyncio.gather(first, *rest)
    assert [total(reply) for reply in replies] == [0, 1, 2, 3, 4, 5]
    assert [sorted(batch) for batch in stage.batches] == [[0], [1, 2, 3, 4, 5]]
    assert replies[3].receipt.batch_size == 5.0


async def test_a_stream_gives_every_event_in_order_and_ends_with_the_receipt(host: StageHost) -> None:
    host.add("count", Countdown())
    *events, end = await collect(host.stream("count", Item("1", CountFrom(5))))
    assert events == [4, 3, 2, 1, 0]
    assert isinstance(end, StreamEnd)
    assert (end.receipt.stage, end.receipt.steps, end.receipt.batch_size) == ("count", 5, 1.0)


async def test_a_named_result_is_remembered(host: StageHost) -> None:
    stage = Adder()
    host.add("adder", stage)
    first = await host.call("adder", Item("1", (2, 3), name="n"))
    await once(lambda: host.load()["adder"].queued == 0)
    await settled(host)
    second = await host.call("adder", Item("2", (2, 3), name="n"))
    assert (first.receipt.cache, second.receipt.cache) == ("miss", "memory")
    assert total(second) == 5
    assert stage.batches == [[5]]
    assert second.receipt.device_s == 0


async def settled(host: StageHost) -> None:
    """Whatever is being remembered is remembered."""
    for hosted in host._one_shot.values():
        await hosted.close()


async def test_a_cancelled_leader_does_not_fail_its_follower(host: StageHost) -> None:
    stage = Adder(run_gate=Gate(closed=True))
    host.add("adder", stage)
    leader = asyncio.create_task(host.call("adder", Item("1", (2, 3), name="n")))
    await asyncio.to_thread(stage.run_gate.wait_for, 1)
    follower = asyncio.create_task(host.call("adder", Item("2", (2, 3), name="n")))
    await asyncio.sleep(0)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    stage.run_gate.open()
    reply = await follower
    assert total(reply) == 5
    assert reply.receipt.cache == "joined"
    assert stage.batches == [[5]]


async def test_closing_the_iterator_frees_the_row_within_one_step(host: StageHost) -> None:
    stage = Countdown(gate=Gate(closed=True))
    host.add("count", stage)
    stage.gate.let(2)
    async with aclosing(host.stream("count", Item("1", CountFrom(50)))) as stream:
        await anext(stream)
        await asyncio.to_thread(stage.gate.wait_for, 3)  # the third step has begun
    stage.gate.open()
    await once(lambda: stage.finished == [CountFrom(50)])
    assert len(stage.steps) == 3


async def test_a_full_queue_refuses_and_says_when_to_come_back(host: StageHost) -> None:
    stage = Adder(run_gate=Gate(closed=True))
    host.add("adder", stage, queue=QueueLimits(max_items=1))
    running = asyncio.create_task(host.call("adder", Item("1", (1, 0))))
    await asyncio.to_thread(stage.run_gate.wait_for, 1)
    waiting = asyncio.create_task(host.call("adder", Item("2", (2, 0))))
    await once(lambda: host.load()["adder"].queued == 1)
    with pytest.raises(QueueFull, match=r"queue\.max_items is 1") as refused:
        await host.call("adder", Item("3", (3, 0)))
    assert (refused.value.retry_after_s or 0) >= 1
    stage.run_gate.open()
    assert [total(reply) for reply in await asyncio.gather(running, waiting)] == [1, 2]


async def test_closing_ends_everything_with_unavailable() -> None:
    host = StageHost()
    adder, count = Adder(run_gate=Gate(closed=True)), Countdown(gate=Gate(closed=True))
    host.add("adder", adder)
    host.add("count", count)
    calls = [asyncio.create_task(host.call("adder", Item(str(i), (i, 0)))) for i in range(3)]
    streams = [asyncio.create_task(collect(host.stream("count", Item(str(i), CountFrom(3))))) for i in range(6)]
    await asyncio.to_thread(adder.run_gate.wait_for, 1)
    await asyncio.to_thread(count.gate.wait_for, 1)
    closing = asyncio.create_task(host.close())
    answers = await asyncio.gather(*calls, *streams, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable] * 9
    adder.run_gate.open()
    count.gate.open()
    await closing
    assert count.running == []
    with pytest.raises(Unavailable):
        await host.call("adder", Item("9", (1, 1)))
