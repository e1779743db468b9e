"""A row that is suspended after any call and resumed elsewhere paints what one that goes on paints, whatever its sampler remembers."""

from collections import deque
from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.codec import decode, encode
from stages.contract.errors import StageFailed
from stages.diffusion.denoise_row import DenoiseRow, PreparedDenoise
from stages.diffusion.row_state import export_state, restore_state
from stages.diffusion.sampling.samplers import SAMPLERS, Sampler, SamplerMenu, Timing
from stages.diffusion.sampling.schedule import build_schedule
from stages.diffusion.step_state import StepState
from tests.stages.diffusion.painter import Painter, Wish, paint_rows, step_once
from tests.stages.diffusion.sampling.test_samplers import NOISE_SAMPLERS

pytestmark = pytest.mark.models

STEPS = 4
CPU = torch.device("cpu")
EVERY_SAMPLER = [
    pytest.param(sampler, prediction, id=f"{sampler.name}-{prediction}")
    for sampler in SAMPLERS
    for prediction in sorted(sampler.predictions)
]


def over_the_wire(state: StepState) -> StepState:
    """As another process would get it: as bytes."""
    return StepState.of(decode("key", encode("key", state.arrays())))


def a_request(sampler: Sampler, prediction: str, steps: int = 6, strength: float = 1.0) -> PreparedDenoise:
    other = next(one for one in SAMPLERS if one.scheduler != sampler.scheduler)
    menu = SamplerMenu({"prediction_type": prediction}, prediction, default=other, allowed=SAMPLERS)
    schedule = build_schedule(menu, sampler, steps, Timing(), strength)
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 4, 4, 4, generator=generator) * schedule.initial_scale
    return PreparedDenoise(latents, schedule, generator.get_state(), {}, None, 1.0, frozenset())


def call_once(row: DenoiseRow) -> None:
    """A model that anybody knows."""
    given = row.schedule.model_input(row.latents, row.call)
    row.advance(0.4 * torch.sin(given) + 0.01 * row.schedule.timestep(row.call) ** 0.5)


def walked(row: DenoiseRow, calls: int | None = None) -> DenoiseRow:
    while not row.done and row.call != calls:
        call_once(row)
    return row


@pytest.mark.parametrize(("sampler", "prediction"), EVERY_SAMPLER)
@pytest.mark.parametrize("strength", [1.0, 0.7])
def test_every_sampler_goes_on_as_if_nothing_had_been(sampler: Sampler, prediction: str, strength: float) -> None:
    request = a_request(sampler, prediction, strength=strength)
    expected = walked(DenoiseRow.of(request, CPU)).latents
    assert expected.isfinite().all()
    for calls in range(request.schedule.num_calls):
        left = walked(DenoiseRow.of(request, CPU), calls)
        state = over_the_wire(export_state(left))
        left.release()
        resumed = DenoiseRow.of(a_request(sampler, prediction, strength=strength), CPU)
        restore_state(resumed, state)
        assert torch.equal(walked(resumed).latents, expected), f"after {calls} calls"


@pytest.mark.parametrize(("sampler", "prediction"), EVERY_SAMPLER)
def test_a_state_that_was_resumed_from_can_be_exported_again(sampler: Sampler, prediction: str) -> None:
    request = a_request(sampler, prediction)
    row = walked(DenoiseRow.of(request, CPU), 3)
    first = export_state(row)
    again = DenoiseRow.of(request, CPU)
    restore_state(again, over_the_wire(first))
    second = export_state(again)
    assert (second.call, second.memory) == (first.call, first.memory)
    assert second.tensors.keys() == first.tensors.keys()
    assert all(np.array_equal(second.tensors[name], first.tensors[name]) for name in first.tensors)


def test_a_row_that_has_not_stepped_remembers_nothing() -> None:
    for sampler in SAMPLERS:
        row = DenoiseRow.of(a_request(sampler, min(sampler.predictions)), CPU)
        assert export_state(row).memory == {}


@pytest.mark.parametrize("memory", [deque([1.0]), {"seen": 1}, object()], ids=["deque", "dict", "object"])
def test_what_a_sampler_remembers_and_cannot_be_taken_along_is_refused_not_lost(memory: object) -> None:
    row = walked(DenoiseRow.of(a_request(SAMPLERS[0], "epsilon"), CPU), 2)
    row.schedule.scheduler.noise_tree = memory
    with pytest.raises(StageFailed, match=f"scheduler.noise_tree is a {type(memory).__name__}, which cannot be taken along"):
        export_state(row)


def test_what_a_new_sampler_remembers_is_taken_along_unasked() -> None:
    request = a_request(SAMPLERS[0], "epsilon")
    row = walked(DenoiseRow.of(request, CPU), 2)
    row.schedule.scheduler.errors = [torch.ones(1, 4, 2, 2), None, 0.5, [torch.tensor(3)]]
    resumed = DenoiseRow.of(request, CPU)
    restore_state(resumed, over_the_wire(export_state(row)))
    first, nothing, number, (last,) = resumed.schedule.scheduler.errors
    assert torch.equal(first, torch.ones(1, 4, 2, 2))
    assert (nothing, number, int(last)) == (None, 0.5, 3)


def stepped(painter: Painter, wish: Wish, calls: int) -> DenoiseRow:
    row = painter.start(wish)
    for _ in range(calls):
        step_once(painter.denoiser, {0: row})
    return row


def resumed(painter: Painter, wish: Wish, state: StepState) -> DenoiseRow:
    task = painter.task(wish)
    return painter.denoiser.resume(task.payload, painter.prepare(task), state)


@pytest.mark.parametrize("sampler", NOISE_SAMPLERS)
def test_a_request_resumed_after_any_step_paints_the_same_image(sd_painter: Painter, sampler: str) -> None:
    wish = Wish(sampler=sampler, steps=STEPS)
    expected = sd_painter.latents(wish)
    for calls in range(sd_painter.start(wish).schedule.num_calls):
        row = stepped(sd_painter, wish, calls)
        state = over_the_wire(sd_painter.denoiser.suspend(row))
        sd_painter.denoiser.finish(row)
        torch.manual_seed(calls)  # the global generator has no part in it
        goes_on = resumed(sd_painter, wish, state)
        np.testing.assert_array_equal(paint_rows(sd_painter.denoiser, {0: goes_on})[0], expected)


def test_a_row_is_resumed_from_what_it_was_started_from(sd_painter: Painter) -> None:
    task = sd_painter.task(Wish(sampler="dpmpp_2m_sde", steps=STEPS))
    prepared = sd_painter.prepare(task)
    row = sd_painter.denoiser.start(task.payload, prepared)
    step_once(sd_painter.denoiser, {0: row})
    state = sd_painter.denoiser.suspend(row)
    sd_painter.denoiser.finish(row)
    goes_on = sd_painter.denoiser.resume(task.payload, prepared, state)
    expected = paint_rows(sd_painter.denoiser, {0: sd_painter.start(task)})[0]
    np.testing.assert_array_equal(paint_rows(sd_painter.denoiser, {0: goes_on})[0], expected)


def test_exporting_disturbs_nothing(sd_painter: Painter) -> None:
    wish = Wish(sampler="euler_a", steps=STEPS)
    row = stepped(sd_painter, wish, 2)
    state = sd_painter.denoiser.suspend(row)
    before = {name: array.copy() for name, array in state.tensors.items()}
    np.testing.assert_array_equal(paint_rows(sd_painter.denoiser, {0: row})[0], sd_painter.latents(wish))
    for name, array in state.tensors.items():  # and what follows doesn't disturb the export
        np.testing.assert_array_equal(array, before[name])


def test_a_state_of_another_size_is_refused(sd_painter: Painter) -> None:
    state = sd_painter.denoiser.suspend(stepped(sd_painter, Wish(), 1))
    with pytest.raises(StageFailed, match="this state is another request's"):
        resumed(sd_painter, Wish(size=(64, 32)), state)


def test_a_state_beyond_the_last_step_is_refused(sd_painter: Painter) -> None:
    state = sd_painter.denoiser.suspend(stepped(sd_painter, Wish(), 3))
    with pytest.raises(StageFailed, match="a call up to 2"):
        resumed(sd_painter, Wish(steps=2), state)


def test_a_state_sets_nothing_but_what_schedulers_remember(sd_painter: Painter) -> None:
    state = sd_painter.denoiser.suspend(stepped(sd_painter, Wish(), 1))
    with pytest.raises(StageFailed, match="'step' is nothing that a scheduler remembers"):
        resumed(sd_painter, Wish(), replace(state, memory={"step": 1}))
