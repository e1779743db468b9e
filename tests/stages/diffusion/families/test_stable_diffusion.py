"""The stages chained against diffusers' own `StableDiffusionPipeline` on the same weights."""

from dataclasses import replace

import numpy as np
import pytest

from tests.stages.diffusion.painter import Oracle, Painter, Wish, paint_rows, step_once

pytestmark = pytest.mark.models

TOLERANCE = 1e-3


@pytest.mark.parametrize(
    "wish",
    [
        Wish(),
        Wish(negative=None),
        Wish(negative="blue", guidance=7.5, seed=9),
        Wish(guidance=1.0),
        Wish(size=(64, 32), steps=3),
        Wish(steps=1),
    ],
)
def test_an_image_painted_alone_is_the_librarys(sd_painter: Painter, sd_oracle: Oracle, wish: Wish) -> None:
    np.testing.assert_allclose(sd_painter.latents(wish), sd_oracle.latents(wish), atol=TOLERANCE)


def test_the_pixels_are_the_librarys(sd_painter: Painter, sd_oracle: Oracle) -> None:
    wishes = [Wish(), Wish(prompt="blue", seed=5)]
    images = sd_painter.pixels([sd_painter.latents(wish) for wish in wishes])
    for image, wish in zip(images, wishes, strict=True):
        expected = sd_oracle.pixels(wish)
        assert image.dtype == np.uint8
        assert image.shape == (32, 32, 3)
        assert np.abs(image.astype(int) - expected.astype(int)).max() <= 1
        assert (image == expected).mean() > 0.999
    assert not np.array_equal(images[0], images[1])


def test_requests_that_agree_in_nothing_share_every_step_and_nothing_else(sd_painter: Painter, sd_oracle: Oracle) -> None:
    wishes = {
        0: Wish(steps=6, seed=1),
        1: Wish(prompt="blue", negative=None, steps=3, seed=2),
        2: Wish(prompt="star", negative="red", guidance=8.0, steps=5, seed=3),
        3: Wish(prompt="heart", steps=2, guidance=1.5, seed=4),
    }
    rows = {key: sd_painter.start(wish) for key, wish in wishes.items()}
    assert len({sd_painter.denoiser.batch_key(row) for row in rows.values()}) == 1
    running = {0: rows[0]}
    finished = step_once(sd_painter.denoiser, running)  # 1 and 2 join after a step, 3 after two
    running |= {1: rows[1], 2: rows[2]}
    finished |= step_once(sd_painter.denoiser, running)
    running |= {3: rows[3]}
    finished |= paint_rows(sd_painter.denoiser, running)
    for key, wish in wishes.items():
        np.testing.assert_allclose(finished[key], sd_oracle.latents(wish), atol=TOLERANCE)


def test_a_request_that_leaves_disturbs_no_other(sd_painter: Painter, sd_oracle: Oracle) -> None:
    stays, leaves = Wish(steps=5), Wish(prompt="blue", seed=3, steps=5)
    rows = {0: sd_painter.start(stays), 1: sd_painter.start(leaves)}
    step_once(sd_painter.denoiser, rows)
    sd_painter.denoiser.finish(rows.pop(1))
    np.testing.assert_allclose(paint_rows(sd_painter.denoiser, rows)[0], sd_oracle.latents(stays), atol=TOLERANCE)


def test_another_seed_paints_another_image(sd_painter: Painter) -> None:
    assert np.abs(sd_painter.latents(Wish(seed=1)) - sd_painter.latents(replace(Wish(), seed=2))).max() > 0.1
