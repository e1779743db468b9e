import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.contract.errors import StageFailed
from stages.diffusion.denoise_row import DenoiseRow
from stages.diffusion.step_state import StepState
from tests.stages.diffusion.painter import Painter, Wish, paint_rows, step_once
from tests.stages.diffusion.sampling.test_samplers import NOISE_SAMPLERS

pytestmark = pytest.mark.models

STEPS = 4


def over_the_wire(state: StepState) -> StepState:
    """As another process would get it: arrays as read-only bytes, the rest as JSON."""
    arrays = {name: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for name, a in state.arrays.items()}
    return StepState(state.call, arrays, json.loads(json.dumps(dict(state.memory))))


def stepped(painter: Painter, wish: Wish, calls: int) -> DenoiseRow:
    row = painter.start(wish)
    for _ in range(calls):
        step_once(painter.denoiser, {0: row})
    return row


@pytest.mark.parametrize("sampler", NOISE_SAMPLERS)
def test_a_request_resumed_after_any_step_paints_the_same_picture(sd_painter: Painter, sampler: str) -> None:
    wish = Wish(sampler=sampler, steps=STEPS)
    expected = sd_painter.latents(wish)
    for calls in range(sd_painter.start(wish).schedule.num_calls):
        row = stepped(sd_painter, wish, calls)
        state = over_the_wire(sd_painter.denoiser.suspend(row))
        sd_painter.denoiser.finish(row)
        torch.manual_seed(calls)  # the global generator has no part in it
        resumed = sd_painter.denoiser.resume(sd_painter.payload(wish), state)
        np.testing.assert_array_equal(paint_rows(sd_painter.denoiser, {0: resumed})[0], expected)


def test_exporting_disturbs_nothing(sd_painter: Painter) -> None:
    wish = Wish(sampler="euler_a", steps=STEPS)
    row = stepped(sd_painter, wish, 2)
    state = sd_painter.denoiser.suspend(row)
    before = {name: array.copy() for name, array in state.arrays.items()}
    np.testing.assert_array_equal(paint_rows(sd_painter.denoiser, {0: row})[0], sd_painter.latents(wish))
    for name, array in state.arrays.items():  # and what follows doesn't disturb the export
        np.testing.assert_array_equal(array, before[name])


def test_a_state_of_another_size_is_refused(sd_painter: Painter) -> None:
    state = sd_painter.denoiser.suspend(stepped(sd_painter, Wish(), 1))
    with pytest.raises(StageFailed, match="this state is another request's"):
        sd_painter.denoiser.resume(sd_painter.payload(Wish(size=(64, 32))), state)


def test_a_state_beyond_the_last_step_is_refused(sd_painter: Painter) -> None:
    state = sd_painter.denoiser.suspend(stepped(sd_painter, Wish(), 3))
    with pytest.raises(StageFailed, match="a call under 2"):
        sd_painter.denoiser.resume(sd_painter.payload(Wish(steps=2)), state)


def test_a_state_sets_nothing_but_what_schedulers_remember(sd_painter: Painter) -> None:
    state = sd_painter.denoiser.suspend(stepped(sd_painter, Wish(), 1))
    with pytest.raises(StageFailed, match="'step' is nothing that a scheduler remembers"):
        sd_painter.denoiser.resume(sd_painter.payload(Wish()), replace(state, memory={"step": 1}))
