"""What a stage lacks after all is resolved while its item waits."""

import asyncio
from typing import Any

import pytest

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from stages.contract.errors import (
    DeadlineExceeded,
    InputUnavailable,
    StageFailed,
    Unavailable,
)
from stages.contract.item import Item, Reply
from stages.contract.recipe import Recipe
from stages.host.event_feed import EventFeed
from stages.host.host import StageHost
from stages.host.submission import HostedEngine, Submission
from tests.stages.engine.self_scheduling import SelfSchedulingEngine
from tests.stages.fakes import Adder, CountFrom, Gate, HandClock
from tests.stages.host.hosting import collect, once
from tests.stages.host.inputs.needing import Forgetful, Scene, counted, forget_between, outcomes, plus


async def test_what_a_stage_holds_already_is_never_asked_for(scene: Scene) -> None:
    scene.count.knows["n2"] = 2
    events = await scene.start(plus(2))
    assert counted(events) == [2, 1, 0]
    assert outcomes(events) == []
    assert scene.elsewhere.items == []


async def test_what_a_stage_lacks_after_all_is_resolved_while_it_waits(scene: Scene) -> None:
    forget_between(scene)
    events = await scene.start(plus(2))
    assert counted(events) == [2, 1, 0]
    assert outcomes(events) == ["miss"]
    assert scene.here.metrics()[0].counters["missing_inputs_total"] == 1


async def test_what_it_lacks_after_all_and_nobody_can_make_fails_it_alone(scene: Scene) -> None:
    forget_between(scene)
    scene.elsewhere.broken = Unavailable("nobody there")
    with pytest.raises(InputUnavailable, match="nobody there"):
        await scene.start(plus(2))
    assert counted(await scene.start(start=1)) == [0]
    load = scene.here.load()["m.count"]
    assert (load.queued, load.running) == (0, 0)


async def test_leaving_while_what_it_lacked_is_made_withdraws_that_too(scene: Scene) -> None:
    forget_between(scene)
    scene.elsewhere.hold()
    counting = scene.start(plus(2))
    await once(lambda: len(scene.elsewhere.items) == 1)
    counting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await counting
    await once(lambda: scene.elsewhere.num_cancelled == 1)


async def test_a_deadline_that_passes_while_what_it_lacked_is_made_ends_it(scene: Scene) -> None:
    forget_between(scene)
    scene.elsewhere.hold()
    with pytest.raises(DeadlineExceeded):
        await scene.start(plus(2), in_s=0.1)


async def test_an_engine_that_schedules_itself_is_hosted_as_ours_are() -> None:
    gate = Gate(closed=True)
    engine, host = SelfSchedulingEngine(gate=gate, time=HandClock()), StageHost(cache=TieredCache([MemoryTier(2**20)]))
    host.add_engine(engine, max_waiting=1)
    host.add("m.adder", Adder())
    counting = asyncio.create_task(collect(host.stream("count", Item("r", CountFrom(1, plus=(plus(2),))))))
    gate.let(1)
    await asyncio.to_thread(gate.wait_for, 2)
    assert host.load()["count"].running == 1
    gate.open()
    events = await counting
    assert counted(events) == [2, 1, 0]
    assert outcomes(events) == ["miss"]
    await host.settled()
    engine.knows = Forgetful(n2=2)  # it asks for it after all, on its own thread
    events = await collect(host.stream("count", Item("r", CountFrom(1, plus=(plus(2),)))))
    assert counted(events) == [2, 1, 0]
    assert outcomes(events) == ["memory"]
    await host.close()


async def test_what_it_lacks_after_all_is_not_made_for_one_who_has_left() -> None:
    gate, asked = Gate(closed=True), list[str]()

    async def resolve(recipe: Recipe[Any], item: Item[Any]) -> Reply[Any]:
        asked.append(recipe.name)
        raise StageFailed("it is bad luck")

    engine = SelfSchedulingEngine(gate=gate, time=HandClock())
    submission = Submission(HostedEngine(engine, resolve, 1), Item("r", CountFrom(1)), EventFeed())
    await submission.begin()
    submission.end()
    submission.missing([plus(2)])  # it was said before, and is heard now
    await asyncio.sleep(0.01)
    assert asked == []
    gate.open()
    await asyncio.to_thread(engine.close)
