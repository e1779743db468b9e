"""Every other family against the library's own pipeline on the same tiny checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
from numpy.typing import NDArray

from stages.contract.errors import InvalidRequest
from stages.diffusion.families.describe import Guidance, PainterInfo
from stages.diffusion.families.families import describe
from tests.stages.diffusion.painter import Oracle, Painter, Wish, checkpoint_of, oracle_of, paint_rows, step_once
from tests.stages.diffusion.tiny import (
    save_flux,
    save_stable_diffusion,
    save_stable_diffusion_3,
    save_stable_diffusion_xl,
)

pytestmark = pytest.mark.models

TOLERANCE = 1e-3
CHANNEL_STATISTICS = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.5, 0.7, 2.0, 1.0]}

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "xl": save_stable_diffusion_xl,
    "xl with channel statistics": lambda folder: save_stable_diffusion_xl(folder, **CHANNEL_STATISTICS),
    "3": save_stable_diffusion_3,
    "3 without t5": lambda folder: save_stable_diffusion_3(folder, t5=False),
    "3 shifted by size": lambda folder: save_stable_diffusion_3(
        folder, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    ),
    "flux dev": save_flux,
    "flux schnell": lambda folder: save_flux(folder, distilled=False),
    "consistency": lambda folder: save_stable_diffusion(
        folder, diffusers.LCMScheduler(beta_schedule="scaled_linear", clip_sample=False), time_cond_proj_dim=10
    ),
}


@dataclass(frozen=True, slots=True)
class Bench:
    painter: Painter
    oracle: Oracle
    info: PainterInfo

    def wish(self, **changes: object) -> Wish:
        """A wish in the family's own manner: no negative prompt where it takes none."""
        wish = replace(Wish(), **changes)  # type: ignore[arg-type]
        return wish if self.info.negative_prompts else replace(wish, negative=None)

    def expected(self, wish: Wish) -> NDArray[np.float32]:
        latents = self.oracle.latents(wish)
        if latents.ndim == 3:
            return latents
        height, width = wish.size[1] // self.info.latent_factor, wish.size[0] // self.info.latent_factor
        return latents.reshape(height // 2, width // 2, -1, 2, 2).transpose(2, 0, 3, 1, 4).reshape(-1, height, width)


@pytest.fixture(scope="module", params=list(BUILDERS))
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = BUILDERS[request.param](tmp_path_factory.mktemp("family"))
    return Bench(Painter.load(folder), oracle_of(folder), describe(checkpoint_of(folder)))


@pytest.mark.parametrize(
    "changes",
    [{}, {"guidance": 7.0, "negative": "blue", "seed": 3}, {"size": (48, 32), "steps": 3}, {"steps": 1}, {"guidance": 1.0}],
    ids=str,
)
def test_latents_painted_alone_are_the_librarys(bench: Bench, changes: dict[str, object]) -> None:
    wish = bench.wish(**({"negative": "red"} | changes))
    np.testing.assert_allclose(bench.painter.latents(wish), bench.expected(wish), atol=TOLERANCE)


def test_pixels_are_the_librarys(bench: Bench) -> None:
    wish = bench.wish(negative="red")
    image = bench.painter.pixels([bench.painter.latents(wish)])[0]
    expected = bench.oracle.images(wish) * 255
    assert np.abs(image - expected).max() <= 0.5 + 255 * TOLERANCE
    assert expected.std() > 1


def test_requests_that_agree_in_nothing_share_steps_and_nothing_else(bench: Bench) -> None:
    samplers = bench.info.samplers
    wishes = {
        0: bench.wish(steps=5, negative="red"),
        1: bench.wish(prompt="blue", negative=None, steps=2, seed=2),
        2: bench.wish(prompt="star", negative="green", guidance=6.0, steps=4, seed=3),
    }
    passenger = bench.painter.start(bench.wish(steps=5, seed=7, sampler=samplers[0]))  # another sampler, cancelled half way
    rows = {key: bench.painter.start(wish) for key, wish in wishes.items()}
    assert len({bench.painter.denoiser.batch_key(row) for row in [*rows.values(), passenger]}) == 1
    finished = step_once(bench.painter.denoiser, {0: rows[0], 9: passenger})
    finished |= step_once(bench.painter.denoiser, {0: rows[0], 1: rows[1], 9: passenger})
    bench.painter.denoiser.finish(passenger)
    finished |= paint_rows(bench.painter.denoiser, rows)
    for key, wish in wishes.items():
        np.testing.assert_allclose(finished[key], bench.expected(wish), atol=TOLERANCE)


def test_every_sampler_on_the_menu_paints(bench: Bench) -> None:
    rows = {index: bench.painter.start(bench.wish(sampler=name)) for index, name in enumerate(bench.info.samplers)}
    assert bench.info.default_sampler in bench.info.samplers
    for latents in paint_rows(bench.painter.denoiser, rows).values():
        assert np.isfinite(latents).all()


def test_a_size_beside_the_multiple_is_refused(bench: Bench) -> None:
    beside = (32, 32 + bench.info.latent_factor // 2)
    with pytest.raises(InvalidRequest, match="both sides must be multiples of") as caught:
        bench.painter.start(bench.wish(size=beside))
    assert caught.value.param == "size"


def folder_of(name: str, tmp_path: Path) -> Path:
    return BUILDERS[name](tmp_path)


def test_xl_without_a_negative_prompt_is_guided_away_from_zeros(tmp_path: Path) -> None:
    folder = folder_of("xl", tmp_path)
    painter, oracle = Painter.load(folder), oracle_of(folder)
    expected = oracle.without_negative(Wish())
    np.testing.assert_allclose(painter.latents(Wish(negative="")), expected, atol=TOLERANCE)
    assert np.abs(painter.latents(Wish(negative="red")) - expected).max() > TOLERANCE


def test_3_paints_no_side_longer_than_its_positions(tmp_path: Path) -> None:
    painter = Painter.load(folder_of("3", tmp_path))
    assert np.isfinite(painter.latents(Wish(size=(96, 32), steps=1))).all()
    with pytest.raises(InvalidRequest, match="size 104x32: this model paints at most 96 pixels a side"):
        painter.start(Wish(size=(104, 32)))


@pytest.mark.parametrize(
    ("name", "guidance"),
    [("flux dev", Guidance.EMBEDDED), ("flux schnell", Guidance.NONE), ("consistency", Guidance.EMBEDDED)],
)
def test_a_model_without_a_second_row_refuses_a_negative_prompt(tmp_path: Path, name: str, guidance: Guidance) -> None:
    folder = folder_of(name, tmp_path)
    assert describe(checkpoint_of(folder)).guidance is guidance
    with pytest.raises(InvalidRequest, match="takes no negative prompt") as caught:
        Painter.load(folder).start(Wish(negative="blue"))
    assert caught.value.param == "negative_prompt"


def test_guidance_as_an_input_differs_from_row_to_row(tmp_path: Path) -> None:
    painter = Painter.load(folder_of("flux dev", tmp_path))
    rows = {index: painter.start(Wish(negative=None, guidance=1.0 + 4 * index)) for index in range(2)}
    finished = paint_rows(painter.denoiser, rows)
    assert np.abs(finished[0] - finished[1]).max() > 1e-3


def test_a_consistency_model_takes_no_more_steps_than_it_was_distilled_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"steps 51 is outside 1\.\.50"):
        Painter.load(folder_of("consistency", tmp_path)).start(Wish(negative=None, steps=51))
