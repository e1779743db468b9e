"""Who waits for inputs: counts for nothing, is bounded, and ends as soon as it must."""

import asyncio

import pytest

from stages.contract.errors import (
    DeadlineExceeded,
    InputUnavailable,
    InvalidRequest,
    QueueFull,
    Unavailable,
)
from stages.contract.limits import QueueLimits
from stages.contract.recipe import Recipe
from tests.stages.fakes import Add, Total
from tests.stages.host.hosting import once
from tests.stages.host.inputs.needing import Forgetful, Scene, counted, forget_between, plus


async def test_time_that_runs_out_while_an_input_is_made_says_so(scene: Scene) -> None:
    scene.elsewhere.hold()
    with pytest.raises(DeadlineExceeded, match=r"m\.adder"):
        await scene.start(plus(2), in_s=0.05)
    assert scene.count.started == []


async def test_what_is_wrong_with_an_input_names_each_requests_own_field(scene: Scene) -> None:
    scene.elsewhere.hold()
    bad: list[Recipe[Total]] = [Recipe("bad", "m.adder", Add(1, 13), param) for param in ("messages[0]", "messages[4]")]
    counting = [scene.start(recipe) for recipe in bad]
    await once(lambda: scene.here.metrics()[0].counters["waiting_for_inputs"] == 2)
    scene.elsewhere.let_go()
    errors = await asyncio.gather(*counting, return_exceptions=True)
    assert [type(error) for error in errors] == [InvalidRequest] * 2
    assert [getattr(error, "param", None) for error in errors] == ["messages[0]", "messages[4]"]
    assert scene.adder.num_prepared == 1


async def test_one_bad_input_ends_the_waiting_for_the_others(scene: Scene) -> None:
    scene.adder.run_gate.close()
    with pytest.raises(InvalidRequest):
        await scene.start(plus(2), Recipe("bad", "m.adder", Add(1, 13), "image"))
    await once(lambda: scene.elsewhere.num_cancelled == 1)


async def test_who_waits_for_inputs_counts_for_nothing_and_lets_others_pass(scene: Scene) -> None:
    scene.elsewhere.hold()
    waiting = [scene.start(plus(2)) for _ in range(3)]
    await once(lambda: scene.here.metrics()[0].counters["waiting_for_inputs"] == 3)
    load = scene.here.load()["m.count"]
    assert (load.queued, load.running) == (0, 0)
    others = await asyncio.gather(*[scene.start(start=2) for _ in range(3)])  # as many as the queue holds
    assert [counted(events) for events in others] == [[1, 0]] * 3
    scene.elsewhere.let_go()
    assert [counted(events) for events in await asyncio.gather(*waiting)] == [[2, 1, 0]] * 3


async def test_how_many_wait_for_inputs_is_bounded(scene: Scene) -> None:
    scene.elsewhere.hold()
    waiting = [scene.start(plus(n)) for n in range(3)]
    await once(lambda: scene.here.metrics()[0].counters["waiting_for_inputs"] == 3)
    with pytest.raises(QueueFull, match=r"3 requests wait for what it needs and queue\.max_items is 3") as refused:
        await scene.start(plus(9))
    assert (refused.value.retry_after_s or 0) >= 1
    scene.elsewhere.let_go()
    await asyncio.gather(*waiting)


async def test_who_waits_for_inputs_keeps_no_other_tenant_out(scene: Scene) -> None:
    scene.elsewhere.hold()
    waiting = [scene.start(plus(n), tenant="crowd") for n in range(3)]
    await once(lambda: scene.here.metrics()[0].counters["waiting_for_inputs"] == 3)
    with pytest.raises(QueueFull):
        await scene.start(plus(8), tenant="crowd")
    single = scene.start(plus(9), tenant="single")
    await once(lambda: scene.here.metrics()[0].counters["waiting_for_inputs"] == 4)
    with pytest.raises(QueueFull, match="4 requests wait"):
        await scene.start(plus(9), tenant="single")
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)
    assert scene.here.metrics()[0].counters["waiting_for_inputs"] == 1
    scene.elsewhere.let_go()
    assert counted(await single)[-1] == 0


async def test_how_many_wait_for_inputs_changes_while_it_serves(scene: Scene) -> None:
    scene.elsewhere.hold()
    waiting = [scene.start(plus(1))]
    await once(lambda: scene.here.metrics()[0].counters["waiting_for_inputs"] == 1)
    scene.here.limit_queue("m.count", QueueLimits(1))
    with pytest.raises(QueueFull, match=r"queue\.max_items is 1"):
        await scene.start(plus(2))
    scene.elsewhere.let_go()
    await asyncio.gather(*waiting)


async def test_closing_ends_who_waits_for_inputs_with_unavailable(scene: Scene) -> None:
    scene.elsewhere.hold()
    counting = scene.start(plus(2))
    await once(lambda: len(scene.elsewhere.items) == 1)
    await scene.here.close()
    with pytest.raises(Unavailable):
        await counting
    assert scene.elsewhere.num_cancelled == 1


def ended(scene: Scene) -> dict[str, float]:
    """How often something ended without an answer, by how."""
    counters = scene.here.metrics()[0].counters
    found = {how: counters[f"{how}_total"] for how in ("rejected", "expired", "cancelled", "failed")}
    return {how: count for how, count in found.items() if count}


async def test_what_is_refused_because_too_many_wait_for_inputs_is_counted(scene: Scene) -> None:
    scene.elsewhere.hold()
    waiting = [scene.start(plus(n)) for n in range(3)]
    await once(lambda: scene.here.metrics()[0].counters["waiting_for_inputs"] == 3)
    with pytest.raises(QueueFull):
        await scene.start(plus(9))
    scene.elsewhere.let_go()
    await asyncio.gather(*waiting)
    assert ended(scene) == {"rejected": 1}


@pytest.mark.parametrize("late", [False, True])
async def test_what_ends_while_it_waits_for_inputs_is_counted_once(scene: Scene, late: bool) -> None:
    if late:
        forget_between(scene)
    scene.elsewhere.hold()
    with pytest.raises(DeadlineExceeded):
        await scene.start(plus(2), in_s=0.1)
    assert ended(scene) == {"expired": 1}


async def test_who_leaves_while_it_waits_for_inputs_is_counted(scene: Scene) -> None:
    scene.elsewhere.hold()
    counting = scene.start(plus(2))
    await once(lambda: len(scene.elsewhere.items) == 1)
    counting.cancel()
    await asyncio.gather(counting, return_exceptions=True)
    assert ended(scene) == {"cancelled": 1}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("how", ["failed", "rejected"])
async def test_an_input_that_can_not_be_had_is_counted_as_what_it_is_and_not_as_cancelled(
    scene: Scene, how: str, late: bool
) -> None:
    if late:
        scene.count.knows = Forgetful(bad=2)
    scene.elsewhere.broken = Unavailable("nobody there") if how == "rejected" else None
    with pytest.raises(InputUnavailable if how == "rejected" else InvalidRequest):
        await scene.start(Recipe("bad", "m.adder", Add(1, 13), "image"))
    assert ended(scene) == {how: 1}
