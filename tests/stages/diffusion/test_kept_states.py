"""A painting that was left after any step goes on from there in another denoiser, as if nothing had been."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cache.codec import decode, encode
from cache.memory import MemoryTier
from stages.checkpoints.checkpoint import LoadOptions
from stages.contract.errors import StageFailed
from stages.contract.pages import MadePage, Paged
from stages.contract.recipe import NO_INPUTS, Inputs, Recipe
from stages.contract.result import Result
from stages.contract.stage import Share, Stepped
from stages.diffusion import denoiser as module
from stages.diffusion.denoise_row import DenoiseRow
from stages.diffusion.denoiser import Denoiser
from stages.diffusion.messages import DenoiseEnd, DenoisePreview, DenoiseProgress, EncodePrompt, Latents, PromptEmbedding
from stages.diffusion.row_state import export_state
from stages.diffusion.sampling.samplers import Sampler
from stages.diffusion.step_state import StepState
from tests.stages.diffusion.painter import Painter, Task, Wish, checkpoint_of
from tests.stages.diffusion.sampling.test_samplers import NOISE_SAMPLERS
from tests.stages.diffusion.test_step_state import CPU, EVERY_SAMPLER, a_request, walked

pytestmark = pytest.mark.models

STEPS = 4


@pytest.fixture(scope="module")
def another(sd_folder: Path) -> Denoiser:
    """As another replica has it."""
    return Denoiser.load(checkpoint_of(sd_folder), LoadOptions())


def kept(task: Task, *steps: int, **changes: Any) -> Task:
    return task.but(keep_steps=steps, **changes)


TRUNK: Recipe[PromptEmbedding] = Recipe("trunk", "painter.stage", EncodePrompt(""))


def varied(task: Task, trunk: Task, steps: int) -> Task:
    """The first `steps` follow the other's prompt."""
    prompt = Inputs({TRUNK.name: trunk.inputs[trunk.payload.prompt]})
    return Task(task.but(trunk=TRUNK, trunk_steps=steps).payload, task.inputs.with_more(prompt))


def run(
    denoiser: Denoiser, task: Task, pages: Inputs = NO_INPUTS, calls: int | None = None
) -> tuple[list[Any], list[MadePage]]:
    """Its events, and the pages that were handed over between its steps. As an engine does: given no more than it needs."""
    payload, needed = task.payload, denoiser.needs(task.payload, pages)
    inputs = Inputs({recipe.name: task.inputs[recipe] for recipe in needed}).with_more(pages)
    row = denoiser.start(payload, denoiser.prepare(payload, inputs))
    events: list[Any] = []
    made: list[MadePage] = []
    while not any(isinstance(event, DenoiseEnd) for event in events) and row.call != calls:
        (stepped,) = denoiser.step([row])
        assert stepped.error is None
        events += stepped.events
        if denoiser.has_exports(idle=False):
            made += denoiser.export(idle=False)
    denoiser.finish(row)
    return events, made


def at_hand(pages: Sequence[MadePage]) -> Inputs:
    """As another process finds them."""
    return Inputs({page.name: StepState.of(decode("key", encode("key", page.value.arrays()))) for page in pages})


def latents(events: Sequence[Any]) -> NDArray[np.float32]:
    (end,) = [event for event in events if isinstance(event, DenoiseEnd)]
    return end.latents.latents


def progress(events: Sequence[Any]) -> list[int]:
    return [event.step for event in events if isinstance(event, DenoiseProgress)]


def test_a_denoiser_is_paged(another: Denoiser) -> None:
    assert isinstance(another, Paged)
    assert another.page_type.kind() == "step_state"


@pytest.mark.parametrize("sampler", NOISE_SAMPLERS)
def test_whoever_asks_again_goes_on_from_where_it_was_left(sd_painter: Painter, another: Denoiser, sampler: str) -> None:
    task = kept(sd_painter.task(Wish(sampler=sampler, steps=STEPS)), *range(1, STEPS + 1))
    events, pages = run(sd_painter.denoiser, task)
    num_calls = len(progress(events))
    names = another.page_run(task.payload).names
    assert [page.name for page in pages] == list(names)
    for step, page in enumerate(pages, 1):
        torch.manual_seed(step)  # the global generator has no part in it
        again, _ = run(another, task, at_hand([page]))
        call = int(np.ceil(step * num_calls / STEPS))
        assert progress(again) == list(range(call + 1, num_calls + 1)) or (call == num_calls == progress(again)[0])
        np.testing.assert_array_equal(latents(again), latents(events))


def test_of_several_states_the_furthest_is_gone_on_from(sd_painter: Painter, another: Denoiser) -> None:
    task = kept(sd_painter.task(Wish(steps=STEPS)), 1, 3)
    events, pages = run(sd_painter.denoiser, task)
    again, _ = run(another, task, at_hand(pages))
    assert progress(again) == [4]
    np.testing.assert_array_equal(latents(again), latents(events))


@pytest.mark.parametrize("init", [False, True])
def test_an_interrupted_painting_goes_on_and_needs_no_given_image(sd_painter: Painter, another: Denoiser, init: bool) -> None:
    task = kept(sd_painter.task(Wish(sampler="euler_a", steps=8)), 2, 4)
    if init:
        task = task.but(init=Latents(np.ones((4, 8, 8), np.float32), np.full((4, 8, 8), 0.1, np.float32)), strength=0.75)
    whole, _ = run(sd_painter.denoiser, task)
    _, pages = run(sd_painter.denoiser, task, calls=3)
    found = at_hand(pages)
    assert [recipe.name for recipe in another.needs(task.payload, found)] == ["prompt", "negative"]
    assert another.needs(task.payload) == task.payload.needs()
    again, _ = run(another, task, found)
    assert 0 < len(progress(again)) < len(progress(whole))
    assert progress(again) == progress(whole)[-len(progress(again)) :]
    np.testing.assert_array_equal(latents(again), latents(whole))


def test_a_finished_painting_needs_nothing_and_calls_no_model(
    sd_painter: Painter, another: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = kept(sd_painter.task(Wish(steps=STEPS, previews=(2,))), STEPS)
    events, pages = run(sd_painter.denoiser, task)
    monkeypatch.setattr(another, "_predict", None)
    found = at_hand(pages)
    assert another.needs(task.payload, found) == ()
    prepared = another.prepare(task.payload, found)
    row = another.start(task.payload, prepared)
    assert another.share(prepared) == Share(another.batch_key(row), another.cost(row))
    assert another.cost(row) == 0
    assert another.batch_key(row) != sd_painter.denoiser.batch_key(sd_painter.start(task))
    (stepped,) = another.step([row])
    assert (stepped.done, stepped.work) == (True, 0.0)
    assert progress(stepped.events) == [STEPS]
    np.testing.assert_array_equal(latents(stepped.events), latents(events))
    assert not another.has_exports(idle=True)


def test_what_was_shown_before_is_not_shown_again_and_what_follows_is(sd_painter: Painter, another: Denoiser) -> None:
    task = kept(sd_painter.task(Wish(steps=6, previews=(2, 5))), 3)
    events, pages = run(sd_painter.denoiser, task)
    again, _ = run(another, task, at_hand(pages))
    shown = [event.step for event in events if isinstance(event, DenoisePreview)]
    assert shown == [2, 5]
    assert [event.step for event in again if isinstance(event, DenoisePreview)] == [5]


def test_nothing_is_kept_that_was_not_asked_for(sd_painter: Painter) -> None:
    task = sd_painter.task(Wish(steps=2))
    assert run(sd_painter.denoiser, task)[1] == []
    run_of = sd_painter.denoiser.page_run(task.payload)
    assert (run_of.names, run_of.work) == ((), 0.0)


def test_a_run_says_what_its_pages_save_and_weigh(sd_painter: Painter) -> None:
    task = kept(sd_painter.task(Wish(steps=8)), 2, 4, 6)
    run_of = sd_painter.denoiser.page_run(task.payload)
    assert len(run_of.names) == 3
    assert run_of.each_holds_all
    assert 3 * run_of.work == 6 * sd_painter.denoiser.weigh(task.payload)
    (page,) = run(sd_painter.denoiser, kept(task, 4))[1]
    assert page.value.num_bytes / 2 < run_of.num_bytes < page.value.num_bytes * 2


def test_another_tenants_state_is_called_otherwise(sd_painter: Painter, another: Denoiser) -> None:
    task = kept(sd_painter.task(Wish(steps=2)), 2, salt="mine")
    (page,) = run(sd_painter.denoiser, task)[1]
    assert page.salt == "mine"
    theirs = kept(task, 2, salt="theirs")
    assert another.needs(theirs.payload, at_hand([page])) == theirs.payload.needs()


MISFITS: dict[str, Callable[[StepState], Result]] = {
    "call": lambda state: replace(state, call=2),
    "no call": lambda state: replace(state, call=-1),
    "size": lambda state: replace(state, tensors={**state.tensors, "latents": np.zeros((1, 4, 8, 16), np.float32)}),
    "another torch's generator": lambda state: replace(state, tensors={**state.tensors, "generator": np.zeros(16, np.uint8)}),
    "damaged generator": lambda state: replace(
        state, tensors={**state.tensors, "generator": np.full_like(state.tensors["generator"], 255)}
    ),
    "memory": lambda state: replace(state, memory={"step": 1}),
    "kind": lambda state: PromptEmbedding(state.tensors["latents"]),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_is_not_the_state_that_its_name_says_is_as_if_not_there(
    sd_painter: Painter, another: Denoiser, misfit: str
) -> None:
    task = kept(sd_painter.task(Wish(steps=STEPS)), 1, STEPS)
    events, (first, last) = run(sd_painter.denoiser, task)
    assert isinstance(last.value, StepState)
    found = {last.name: MISFITS[misfit](last.value)}
    assert another.needs(task.payload, Inputs(found)) == task.payload.needs()
    for pages, left in ((found, range(1, STEPS + 1)), (found | {first.name: first.value}, range(2, STEPS + 1))):
        again, made = run(another, task, Inputs(pages))
        assert progress(again) == list(left)
        np.testing.assert_array_equal(latents(again), latents(events))
        assert last.name in {page.name for page in made}  # and is remembered as it should be


def test_a_row_that_began_at_a_state_is_suspended_and_resumed_like_any(sd_painter: Painter, another: Denoiser) -> None:
    for sampler in NOISE_SAMPLERS:
        task = kept(sd_painter.task(Wish(sampler=sampler, steps=6)), 2)
        events, pages = run(sd_painter.denoiser, task)
        prepared = another.prepare(task.payload, task.inputs.with_more(at_hand(pages)))
        row = another.start(task.payload, prepared)
        another.step([row])
        suspended = another.suspend(row)
        another.finish(row)
        row, stepped = another.resume(task.payload, prepared, suspended), Stepped()
        while not stepped.done:
            (stepped,) = another.step([row])
        np.testing.assert_array_equal(latents(stepped.events), latents(events))


def test_rows_go_on_beside_rows_that_begin(sd_painter: Painter, another: Denoiser) -> None:
    task = kept(sd_painter.task(Wish(steps=STEPS)), 2)
    events, pages = run(sd_painter.denoiser, task)
    left = another.start(task.payload, another.prepare(task.payload, task.inputs.with_more(at_hand(pages))))
    new = another.start(task.payload, another.prepare(task.payload, task.inputs))
    another.step([left, new])
    stepped, _ = another.step([left, new])
    np.testing.assert_allclose(latents(stepped.events), latents(events), atol=1e-3)
    (page,) = another.export(idle=True)  # of the one that begins: the other's is remembered already
    assert page.name == pages[0].name


@pytest.mark.parametrize("sampler", NOISE_SAMPLERS)
def test_variations_share_their_trunk(sd_painter: Painter, another: Denoiser, sampler: str) -> None:
    steps = 6
    trunk = sd_painter.task(Wish("a red circle", sampler=sampler, steps=steps))
    variation = kept(varied(sd_painter.task(Wish("two blue boxes", sampler=sampler, steps=steps)), trunk, 3), 3)
    events, pages = run(sd_painter.denoiser, variation)
    of_trunk, plain = kept(trunk.but(prompt=TRUNK), 3), run(sd_painter.denoiser, trunk)[0]
    assert another.page_run(of_trunk.payload).names == another.page_run(variation.payload).names
    assert not np.array_equal(latents(events), latents(plain))
    assert not np.array_equal(latents(events), latents(run(another, variation.but(trunk=None, trunk_steps=0))[0]))
    for found in (pages, run(sd_painter.denoiser, Task(of_trunk.payload, variation.inputs))[1]):
        assert [recipe.name for recipe in another.needs(variation.payload, at_hand(found))] == ["prompt", "negative"]
        again, _ = run(another, variation, at_hand(found))
        assert progress(again) == progress(events)[-len(progress(again)) :]
        assert len(progress(again)) < len(progress(events))
        np.testing.assert_array_equal(latents(again), latents(events))


def test_a_state_in_the_trunk_is_gone_on_from_with_the_trunks_prompt(sd_painter: Painter, another: Denoiser) -> None:
    task, trunk = sd_painter.task(Wish("two blue boxes", steps=6)), sd_painter.task(Wish("a red circle", steps=6))
    variation = kept(varied(task, trunk, 4), 2)
    events, pages = run(sd_painter.denoiser, variation)
    assert [recipe.name for recipe in another.needs(variation.payload, at_hand(pages))] == ["prompt", "negative", "trunk"]
    again, _ = run(another, variation, at_hand(pages))
    assert progress(again) == [3, 4, 5, 6]
    np.testing.assert_array_equal(latents(again), latents(events))


def test_a_trunk_of_another_shape_fails_that_request(sd_painter: Painter) -> None:
    task = sd_painter.task(Wish())
    prompt = task.inputs[task.payload.prompt]
    longer = PromptEmbedding(np.concatenate([prompt.embeds, prompt.embeds]))
    wrong = Task(task.but(trunk=TRUNK, trunk_steps=2).payload, task.inputs.with_more(Inputs({"trunk": longer})))
    with pytest.raises(StageFailed, match="a painting's prompts are not of one shape"):
        sd_painter.prepare(wrong)


def test_states_that_nobody_takes_are_bounded(sd_painter: Painter, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser, task = sd_painter.denoiser, sd_painter.task(Wish(steps=1))
    (page,) = run(denoiser, kept(task, 1))[1]
    monkeypatch.setattr(module, "MAX_KEPT_BYTES", 3.5 * page.value.num_bytes)
    for seed in range(5):
        row = denoiser.start(task.payload, denoiser.prepare(kept(task, 1, seed=seed).payload, task.inputs))
        denoiser.step([row])
        denoiser.finish(row)
    pages = denoiser.export(idle=False)
    names = [denoiser.page_run(kept(task, 1, seed=seed).payload).names[0] for seed in (2, 3, 4)]
    assert [page.name for page in pages] == names


STRANGE = {
    "an object": (object, "scheduler.noise_tree is a object, which cannot be taken along"),
    "a tensor that numpy has no type for": (lambda: torch.randn(64).bfloat16(), "TypeError: "),
    "tensors that cannot be compared": (lambda: (torch.ones(2),), "RuntimeError: Boolean value of Tensor"),
}


@pytest.mark.parametrize("strange", STRANGE)
def test_what_cannot_be_taken_along_is_not_kept_and_the_painting_goes_on(
    sd_painter: Painter, caplog: pytest.LogCaptureFixture, strange: str
) -> None:
    """Nor do those beside it hear of it."""
    make, told = STRANGE[strange]
    task = kept(sd_painter.task(Wish(steps=2)), 1)
    rows = [sd_painter.start(task), sd_painter.start(task)]
    fresh = rows[0].schedule._fresh
    fresh.noise_tree, rows[0].schedule.scheduler.noise_tree = make(), make()
    stepped = sd_painter.denoiser.step(rows)
    assert [(one.error, len(one.events)) for one in stepped] == [(None, 1), (None, 1)]
    assert len(sd_painter.denoiser.export(idle=False)) == 1  # the other's
    assert f"the state after call 1 is not kept: {told}" in caplog.text


@pytest.mark.parametrize(("sampler", "prediction"), EVERY_SAMPLER)
def test_every_samplers_state_is_one_that_a_tier_remembers(sampler: Sampler, prediction: str) -> None:
    row = DenoiseRow.of(a_request(sampler, prediction), CPU)
    tier = MemoryTier(2**24)
    while not row.done:
        state = export_state(walked(row, row.call + 1))
        tier.put_many({"key": state.arrays()})
        found = StepState.of(tier.get_many(["key"])["key"])
        assert (found.call, found.memory) == (row.call, state.memory)


GOOD: dict[str, NDArray[Any]] = {
    "latents": np.zeros((1, 4, 8, 8), np.float32),
    "generator": np.zeros(16, np.uint8),
    "rest": np.frombuffer(json.dumps({"call": 1, "memory": {"a": [{"tensor": "latents"}, 1]}}).encode(), np.uint8),
}


def rest(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)


@pytest.mark.parametrize(
    "changes",
    [
        {"latents": None},
        {"generator": None},
        {"rest": None},
        {"latents": np.zeros((1, 4, 8, 8), np.float64)},
        {"generator": np.zeros(16, np.int8)},
        {"generator": np.zeros((4, 4), np.uint8)},
        {"rest": rest("no JSON")},
        {"rest": rest("[]")},
        {"rest": rest('{"call": 1}')},
        {"rest": rest('{"call": "1", "memory": {}}')},
        {"rest": rest('{"call": true, "memory": {}}')},
        {"rest": rest('{"call": 1, "memory": []}')},
        {"rest": rest('{"call": 1, "memory": {"a": {"tensor": "gone"}}}')},
        {"rest": rest('{"call": 1, "memory": {"a": [[{"tensor": "gone"}]]}}')},
        {"rest": rest('{"call": 1, "memory": {"a": {"other": "latents"}}}')},
        {"rest": rest('{"call": 1, "memory": {"a": {"tensor": ["latents"]}}}')},
        {"rest": rest("[" * 100_000)},
        {"rest": np.frombuffer(b"\xff\xfe\x00", np.uint8)},
    ],
)
def test_arrays_that_are_no_state_are_told_from_one(changes: dict[str, Any]) -> None:
    assert StepState.of(GOOD).call == 1
    with pytest.raises(ValueError):
        StepState.of({name: array for name, array in (GOOD | changes).items() if array is not None})
