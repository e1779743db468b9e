"""Streams of a host: every event in order, at the pace that was asked for, and an end whatever happens."""

import asyncio
import gc
import math
import time
from contextlib import aclosing

import pytest

import stages.host.host
from stages.contract.errors import (
    DeadlineExceeded,
    InvalidRequest,
    StageFailed,
)
from stages.contract.item import Item, StreamEnd
from stages.contract.limits import QueueLimits
from stages.host.host import StageHost
from tests.stages.fakes import Add, Adder, Countdown, CountFrom, Gate
from tests.stages.host.hosting import collect, once


def deadline(in_s: float) -> float:
    return time.time() + in_s


async def test_a_stream_gives_every_event_in_order_and_ends_with_the_receipt(host: StageHost) -> None:
    host.add("count", Countdown())
    *events, end = await collect(host.stream("count", Item("1", CountFrom(5))))
    assert events == [4, 3, 2, 1, 0]
    assert isinstance(end, StreamEnd)
    assert (end.receipt.stage, end.receipt.steps, end.receipt.batch_size) == ("count", 5, 1.0)


async def test_a_stream_of_infinite_pace_hands_everything_over_at_the_end(host: StageHost) -> None:
    stage = Countdown()
    host.add("count", stage)
    batches = [events async for events in host.stream("count", Item("1", CountFrom(5), pace_s=math.inf))]
    assert len(batches) == 1
    assert [*batches[0][:-1]] == [4, 3, 2, 1, 0]
    assert isinstance(batches[0][-1], StreamEnd)


async def test_what_is_kept_of_a_stream_of_infinite_pace_is_handed_over_meanwhile(host: StageHost) -> None:
    gate = Gate(closed=True)
    host.add("count", Countdown(gate=gate))
    async with aclosing(host.stream("count", Item("1", CountFrom(5), pace_s=math.inf, kept_s=0.0))) as stream:
        gate.let(1)
        assert await anext(stream) == [4]
        gate.open()
        assert [event for events in [batch async for batch in stream] for event in events][:-1] == [3, 2, 1, 0]


async def test_a_paced_stream_hands_its_first_event_over_at_once_and_its_end_too(host: StageHost) -> None:
    gate = Gate(closed=True)
    host.add("count", Countdown(gate=gate))
    async with aclosing(host.stream("count", Item("1", CountFrom(5), pace_s=3600.0))) as stream:
        gate.let(1)
        assert await anext(stream) == [4]
        gate.open()
        assert [*(await anext(stream))[:-1]] == [3, 2, 1, 0]


async def test_of_many_streams_with_a_pace_each_is_handed_on_less_often(
    host: StageHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages.host.host, "PIECE_S", 3600.0)
    monkeypatch.setattr(stages.host.host, "LONGEST_PACE_S", 3600.0)
    gate = Gate(closed=True)
    host.add("count", Countdown(gate=gate))
    async with aclosing(host.stream("count", Item("1", CountFrom(5), pace_s=1e-9))) as paced:
        gate.let(1)
        assert await anext(paced) == [4]
        gate.open()
        assert [*(await anext(paced))[:-1]] == [3, 2, 1, 0]
    assert host._num_streams == 0


async def test_streams_that_say_nothing_yet_make_no_others_wait(host: StageHost) -> None:
    gate = Gate(closed=True)
    host.add("count", Countdown(slots=1, gate=gate))
    async with aclosing(host.stream("count", Item("1", CountFrom(5), pace_s=0.025))) as first:
        told = asyncio.ensure_future(anext(first))
        await asyncio.to_thread(gate.wait_for, 1)  # it has the slot
        waiting = asyncio.ensure_future(collect(host.stream("count", Item("2", CountFrom(1), pace_s=0.025))))
        gate.let(1)
        assert await told == [4]
        assert host._num_streams == 1
        waiting.cancel()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert host._num_streams == 0


async def test_what_is_to_be_told_as_it_comes_is_however_many_streams_there_are(
    host: StageHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages.host.host, "PIECE_S", 3600.0)
    gate = Gate(closed=True)
    host.add("count", Countdown(gate=gate))
    async with aclosing(host.stream("count", Item("1", CountFrom(5)))) as stream:
        for number in (4, 3):
            gate.let(1)
            assert await anext(stream) == [number]
        gate.open()


async def test_what_came_before_a_failure_is_handed_over_whatever_the_pace(host: StageHost) -> None:
    host.add("count", Countdown())
    stream = host.stream("count", Item("1", CountFrom(5, fails_at=2), pace_s=math.inf))
    assert await anext(stream) == [4, 3, 2]
    with pytest.raises(StageFailed, match="the row broke"):
        await anext(stream)


async def test_what_came_while_nobody_looked_comes_in_one_list(host: StageHost) -> None:
    stage = Countdown(gate=Gate(closed=True))
    host.add("count", stage)
    async with aclosing(host.stream("count", Item("1", CountFrom(5)))) as stream:
        stage.gate.let(1)
        assert list(await anext(stream)) == [4]
        stage.gate.open()
        await once(lambda: len(stage.finished) == 1)
        await asyncio.sleep(0)  # a finished row's last events are on their way already
        *events, end = await anext(stream)
        assert events == [3, 2, 1, 0]
        assert isinstance(end, StreamEnd)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_events_before_an_error_are_given_before_it_is_raised(host: StageHost) -> None:
    host.add("count", Countdown())
    stream = host.stream("count", Item("1", CountFrom(5, fails_at=2)))
    seen: list[object] = []
    while len(seen) < 3:
        seen.extend(await anext(stream))
    assert seen == [4, 3, 2]
    with pytest.raises(StageFailed, match="the row broke"):
        await anext(stream)


async def test_what_could_never_run_is_refused_at_the_first_event(host: StageHost) -> None:
    host.add("count", Countdown())
    with pytest.raises(InvalidRequest, match="101 is over 100"):
        await anext(host.stream("count", Item("1", CountFrom(101))))


async def test_a_stream_that_nobody_reads_starts_nothing(host: StageHost) -> None:
    stage = Countdown()
    host.add("count", stage)
    await host.stream("count", Item("1", CountFrom(5))).aclose()
    assert stage.started == []


@pytest.mark.parametrize("how", ["close", "cancel the task", "drop"])
async def test_leaving_a_stream_frees_its_row_within_one_step(host: StageHost, how: str) -> None:
    stage = Countdown(gate=Gate(closed=True))
    host.add("count", stage)
    stream = host.stream("count", Item("1", CountFrom(50)))
    stage.gate.let(2)
    await anext(stream)
    await asyncio.to_thread(stage.gate.wait_for, 3)  # the third step is under way
    if how == "close":
        await stream.aclose()
    elif how == "cancel the task":
        reading = asyncio.create_task(collect(stream))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    else:
        del stream
        gc.collect()
        await once(lambda: host.load()["count"].running == 0)
    stage.gate.open()
    await once(lambda: stage.finished == [CountFrom(50)])
    assert len(stage.steps) == 3
    assert host.metrics()[0].counters["cancelled_total"] == 1


async def test_a_row_that_is_done_is_not_cancelled_by_closing(host: StageHost) -> None:
    host.add("count", Countdown())
    async with aclosing(host.stream("count", Item("1", CountFrom(2)))) as stream:
        await collect(stream)
    assert host.metrics()[0].counters["cancelled_total"] == 0


@pytest.mark.parametrize("running", [True, False])
async def test_a_stream_ends_at_its_deadline_even_in_the_middle_of_a_step(host: StageHost, running: bool) -> None:
    stage = Countdown(slots=1, gate=Gate(closed=True))
    host.add("count", stage)
    others = []
    if not running:
        others = [asyncio.create_task(collect(host.stream("count", Item("0", CountFrom(2)))))]
        await asyncio.to_thread(stage.gate.wait_for, 1)
    with pytest.raises(DeadlineExceeded, match="then ran" if running else "and never ran"):
        await collect(host.stream("count", Item("1", CountFrom(50), deadline=deadline(0.05))))
    assert host.metrics()[0].counters["expired_total"] == 1
    stage.gate.open()
    await asyncio.gather(*others)
    await once(lambda: len(stage.finished) == len(stage.started))
    assert sum(CountFrom(50) in rows for rows in stage.steps) == int(running)


async def test_what_hangs_while_it_is_prepared_ends_at_its_deadline(host: StageHost) -> None:
    adder, countdown = Adder(prepare_gate=Gate(closed=True)), Countdown(prepare_gate=Gate(closed=True))
    host.add("add", adder)
    host.add("count", countdown)
    for hanging in (
        host.call("add", Item("1", Add(1), deadline=deadline(0.05))),
        collect(host.stream("count", Item("2", CountFrom(1), deadline=deadline(0.05)))),
    ):
        with pytest.raises(DeadlineExceeded, match="and never ran"):
            await hanging
    adder.prepare_gate.open()
    countdown.prepare_gate.open()
    assert (await host.call("add", Item("3", Add(2)))).value.total == 2


async def test_a_step_that_raises_ends_its_streams_and_no_others(host: StageHost) -> None:
    host.add("count", Countdown())
    bad = host.stream("count", Item("1", CountFrom(5, "bad", breaks_step_at=3)))
    good = host.stream("count", Item("2", CountFrom(5, "good")))
    error, events = await asyncio.gather(collect(bad), collect(good), return_exceptions=True)
    assert isinstance(error, StageFailed)
    assert isinstance(events, list)
    assert events[:-1] == [4, 3, 2, 1, 0]
    assert len(await collect(host.stream("count", Item("3", CountFrom(1))))) == 2


async def test_many_streams_at_once_lose_nothing(host: StageHost) -> None:
    stage = Countdown(slots=8)
    host.add("count", stage, queue=QueueLimits(100))
    everything = await asyncio.gather(
        *(collect(host.stream("count", Item(str(n), CountFrom(n, key=str(n % 3))))) for n in range(1, 60))
    )
    assert [events[:-1] for events in everything] == [list(range(n - 1, -1, -1)) for n in range(1, 60)]
    await once(lambda: len(stage.finished) == 59)
    assert stage.running == []
