"""What a pipeline foresees of a painting, from settings files alone, is what its stages do."""

from pathlib import Path

import pytest
from diffusers import PNDMScheduler

from stages.contract.recipe import NO_INPUTS
from stages.contract.work import Work
from stages.diffusion.messages import EncodePrompt, Latents
from stages.diffusion.prompt_lengths import PromptLengths
from stages.diffusion.sampling.samplers import Timing
from stages.diffusion.sampling.schedule import build_schedule
from stages.diffusion.work import PaintingWork
from tests.stages.diffusion.painter import Painter, Task, Wish, checkpoint_of
from tests.stages.diffusion.tiny import save_flux, save_stable_diffusion, save_stable_diffusion_3

pytestmark = pytest.mark.models


def done(painter: Painter, task: Task) -> Work:
    """Step by step, as the stage says; what is left is told exactly on the way."""
    row, did = painter.start(task), Work(0.0, 0.0)
    total = painter.denoiser.rest(row)
    while not row.done:
        did += Work(painter.denoiser.cost(row), 1.0)
        painter.denoiser.step([row])
        if not row.done:
            assert painter.denoiser.rest(row) + did == total
    return did


@pytest.mark.parametrize(
    "wish",
    [
        Wish(),
        Wish(steps=7, size=(64, 32)),
        Wish(negative=None),
        Wish(guidance=1.0),
        Wish(sampler="heun", steps=5),
        Wish(sampler="pndm", steps=5),
    ],
)
def test_a_painting_is_foreseen_exactly(sd_painter: Painter, sd_folder: Path, wish: Wish) -> None:
    task = sd_painter.task(wish)
    found = PaintingWork.load(checkpoint_of(sd_folder)).of(task.payload)
    assert found == done(sd_painter, task)
    assert found.amount == found.steps * sd_painter.denoiser.weigh(task.payload)


@pytest.mark.parametrize("strength", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("sampler", [None, "heun"])
def test_an_edit_takes_its_last_steps_only(sd_painter: Painter, sd_folder: Path, strength: float, sampler: str | None) -> None:
    painted = sd_painter.latents(Wish())
    task = sd_painter.task(Wish(steps=5, sampler=sampler)).but(init=Latents(painted), strength=strength)
    assert PaintingWork.load(checkpoint_of(sd_folder)).of(task.payload) == done(sd_painter, task)


@pytest.mark.parametrize("save", [save_stable_diffusion_3, save_flux])
def test_the_calls_of_every_sampler_are_known_without_building_it(sd_folder: Path, tmp_path: Path, save: object) -> None:
    folders = [sd_folder, save(tmp_path)]  # type: ignore[operator]
    for work in [PaintingWork.load(checkpoint_of(folder)) for folder in folders]:
        for sampler in work.menu.allowed:
            for steps in {work.menu.min_steps(sampler), 5, 14, 20}:
                expected = build_schedule(work.menu, sampler, steps, work.spacing(32, 32, steps)).num_calls
                assert work.menu.num_calls(sampler, steps) == expected, f"{sampler.name} in {steps} steps"


def test_steps_of_runge_and_kutta_take_calls_of_their_own(tmp_path: Path) -> None:
    folder = save_stable_diffusion(tmp_path, PNDMScheduler(num_train_timesteps=1000, skip_prk_steps=False))
    menu = PaintingWork.load(checkpoint_of(folder)).menu
    for steps in (4, 7, 20):
        assert menu.num_calls(menu.default, steps) == build_schedule(menu, menu.default, steps, Timing()).num_calls


def test_a_prompt_weighs_what_the_text_encoder_says(sd_painter: Painter, sd_folder: Path) -> None:
    lengths = PromptLengths.load(checkpoint_of(sd_folder))
    for payload in (EncodePrompt(""), EncodePrompt("a red circle"), EncodePrompt("red " * 60), EncodePrompt("", 48)):
        work = lengths.work(payload.text, payload.min_positions)
        assert work == Work(sd_painter.text_encoder.weigh(payload), 1.0)
    short = sd_painter.text_encoder.prepare(EncodePrompt("a red circle"), NO_INPUTS)
    assert lengths.work("a red circle").amount == sd_painter.text_encoder.cost(short)
