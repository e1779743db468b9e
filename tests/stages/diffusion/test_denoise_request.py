import shutil
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest

from stages.contract.errors import InvalidRequest
from stages.contract.recipe import Recipe
from stages.diffusion.denoise_request import calls_of
from stages.diffusion.messages import Denoise, EncodeToLatents, Latents
from tests.stages.diffusion.painter import Painter, Wish
from tests.stages.diffusion.tiny import save_stable_diffusion

pytestmark = pytest.mark.models

IMAGE: Recipe[Latents] = Recipe("latents", "painter.vae_encoder", EncodeToLatents(b"", 32, 32, 1024))


@pytest.fixture(scope="module")
def good(sd_painter: Painter) -> Denoise:
    return sd_painter.task(Wish()).payload


def test_a_good_request_passes(sd_painter: Painter, good: Denoise) -> None:
    sd_painter.denoiser.check(good)


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"width": 30}, "size", "size 30x32: both sides must be multiples of 4"),
        ({"height": 0}, "size", "size 32x0"),
        ({"width": -4}, "size", "size -4x32"),
        ({"steps": 0}, "steps", "steps 0 is outside 1..500"),
        ({"steps": 501}, "steps", "steps 501 is outside 1..500"),
        ({"guidance_scale": float("nan")}, "guidance_scale", "guidance_scale nan is outside 0..100"),
        ({"guidance_scale": float("inf")}, "guidance_scale", "guidance_scale inf"),
        ({"guidance_scale": -1.0}, "guidance_scale", "guidance_scale -1.0"),
        ({"seed": 2**64}, "seed", "seed 18446744073709551616 is outside"),
        ({"sampler": "magic"}, "sampler", "sampler 'magic' is not a sampler"),
        ({"strength": 0.0, "init": IMAGE}, "strength", "strength 0.0 is outside 0..1"),
        ({"strength": float("nan"), "init": IMAGE}, "strength", "strength nan is outside 0..1"),
        ({"strength": 0.1, "init": IMAGE}, "strength", "strength 0.1 of 4 steps leaves no step"),
    ],
)
def test_a_bad_field_is_named_with_value_and_limit(
    sd_painter: Painter, good: Denoise, change: dict[str, object], param: str, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message.replace("[", r"\[")) as caught:
        sd_painter.denoiser.check(replace(good, **change))  # type: ignore[arg-type]
    assert caught.value.param == param


@pytest.mark.parametrize("seed", [0, -1, 2**63, 2**64 - 1, -(2**63)])
def test_every_seed_a_generator_takes_is_taken(sd_painter: Painter, seed: int) -> None:
    row = sd_painter.start(Wish(seed=seed, steps=1))
    assert sd_painter.denoiser.step([row])[0].done


def test_a_sampler_with_a_long_beginning_needs_more_steps(tmp_path: Path) -> None:
    folder = save_stable_diffusion(tmp_path, diffusers.PNDMScheduler(beta_schedule="scaled_linear", steps_offset=1))
    shutil.rmtree(folder / "words")
    painter = Painter.load(folder)
    assert np.isfinite(painter.latents(Wish(steps=4))).all()
    with pytest.raises(InvalidRequest, match=r"steps 3 is outside 4\.\.500"):
        painter.start(Wish(steps=3))


@pytest.mark.parametrize(
    ("steps", "num_calls", "wanted", "calls"),
    [
        (20, 20, (5, 10), {5: 5, 10: 10}),
        (20, 39, (10, 20), {10: 20, 20: 39}),  # Heun
        (20, 10, (5, 10, 15), {5: 3, 10: 5, 15: 8}),  # image-to-image at half strength
        (4, 4, (0, 5, 2), {2: 2}),
    ],
)
def test_previews_and_kept_states_are_asked_for_by_steps_of_the_request(
    good: Denoise, steps: int, num_calls: int, wanted: tuple[int, ...], calls: dict[int, int]
) -> None:
    assert calls_of(wanted, replace(good, steps=steps), num_calls) == calls
