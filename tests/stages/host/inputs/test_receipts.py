"""Receipts of inputs: when each was at hand, told once, however the stream or the call ends."""

import asyncio
import time
from contextlib import aclosing
from typing import Any

import pytest

from stages.contract.errors import (
    QueueFull,
    StageFailed,
)
from stages.contract.item import Item
from tests.stages.fakes import Add, Adder, CountFrom, Gate
from tests.stages.host.hosting import collect, once
from tests.stages.host.inputs.needing import Scene, counted, inputs, outcomes, plus


async def test_a_stream_of_infinite_pace_tells_of_what_was_made_for_it(scene: Scene) -> None:
    item = Item("r", CountFrom(3, plus=(plus(2),)), pace_s=float("inf"))
    async with aclosing(scene.here.stream("m.count", item)) as batches:
        (events,) = [batch async for batch in batches]
    assert counted(events) == [4, 3, 2, 1, 0]
    assert outcomes(events) == ["miss"]


async def test_a_stream_says_how_long_ago_each_input_was_at_hand(scene: Scene) -> None:
    scene.count.gate.close()
    counting = asyncio.create_task(
        collect(scene.here.stream("m.count", Item("r", CountFrom(1, plus=(plus(2),)), pace_s=float("inf"))))
    )
    await asyncio.to_thread(scene.count.gate.wait_for, 1)
    began = time.monotonic()
    await asyncio.to_thread(scene.adder.run_gate.wait_for, 1)
    passed_s = time.monotonic() - began
    scene.count.gate.open()
    (receipt,) = inputs(await counting)
    assert receipt.ago_s >= passed_s > 0


async def test_a_reply_says_how_long_ago_each_input_was_at_hand(scene: Scene) -> None:
    adder = Adder(run_gate=Gate(closed=True))
    scene.here.add("m.sum", adder)
    call: asyncio.Task[Any] = asyncio.create_task(scene.here.call("m.sum", Item("r", Add(0, 0, (plus(7),)), "sum")))
    await asyncio.to_thread(adder.run_gate.wait_for, 1)
    began = time.monotonic()
    await asyncio.to_thread(scene.adder.run_gate.wait_for, 1)
    passed_s = time.monotonic() - began
    adder.run_gate.open()
    reply = await call
    assert [receipt.ago_s >= passed_s > 0 for receipt in reply.inputs] == [True]
    assert [receipt.stage for receipt in reply.receipts] == ["m.adder", "m.sum"]


async def test_a_stream_that_fails_has_told_of_its_inputs(scene: Scene) -> None:
    stream = scene.here.stream("m.count", Item("r", CountFrom(3, fails_at=2, plus=(plus(0),)), pace_s=float("inf")))
    events = await anext(stream)
    assert outcomes(events) == ["miss"]
    with pytest.raises(StageFailed, match="the row broke"):
        await anext(stream)


async def test_a_stream_that_is_left_has_told_of_its_inputs_with_its_first_event(scene: Scene) -> None:
    async with aclosing(scene.here.stream("m.count", Item("r", CountFrom(50, plus=(plus(2),))))) as batches:
        assert outcomes(await anext(batches)) == ["miss"]


async def test_what_is_refused_once_its_inputs_are_at_hand_has_told_of_them(scene: Scene) -> None:
    scene.elsewhere.hold()
    scene.count.gate.close()
    stream = scene.here.stream("m.count", Item("r", CountFrom(1, plus=(plus(2),)), tenant="t"))
    first = asyncio.create_task(anext(stream))
    await once(lambda: len(scene.elsewhere.items) == 1)
    others = [scene.start(start=2)]
    await asyncio.to_thread(scene.count.gate.wait_for, 1)
    others += [scene.start(start=2) for _ in range(3)]
    await once(lambda: scene.here.load()["m.count"].queued == 3)  # it was not when this one came
    scene.elsewhere.let_go()
    assert outcomes(await first) == ["miss"]
    with pytest.raises(QueueFull):
        await anext(stream)
    scene.count.gate.open()
    await asyncio.gather(*others)
