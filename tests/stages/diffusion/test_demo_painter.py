"""The weights that ship with Triptych, loaded by the stages and by the library's pipeline."""

from pathlib import Path

import numpy as np
import pytest

from stages.checkpoints.checkpoint import Source, resolve
from stages.diffusion.families.families import describe
from tests.stages.diffusion.painter import Oracle, Painter, Wish, oracle_of, paint_rows

pytestmark = pytest.mark.models

WISHES = {
    0: Wish(prompt="a red circle on a gray background", steps=4, size=(64, 64)),
    1: Wish(prompt="a green star above a white heart on a beige background", steps=3, seed=2, size=(64, 64), sampler="unipc"),
    2: Wish(prompt="a blue ring", negative=None, steps=2, seed=3, size=(64, 64), sampler="flow_euler"),
}


@pytest.fixture(scope="module")
def folder() -> Path:
    return resolve(Source(demo="painter")).folder


@pytest.fixture(scope="module")
def painter(folder: Path) -> Painter:
    return Painter.load(folder)


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Oracle:
    return oracle_of(folder)


def test_it_paints_64_by_64_by_flow() -> None:
    info = describe(resolve(Source(demo="painter")))
    assert (info.default_size, info.latent_factor, info.prediction_type) == ((64, 64), 4, "flow_prediction")
    assert info.default_sampler == "dpmpp_2m"
    assert set(info.samplers) >= {"unipc", "flow_euler"}


def test_its_images_are_the_librarys(painter: Painter, oracle: Oracle) -> None:
    latents = painter.latents(WISHES[0])
    np.testing.assert_allclose(latents, oracle.latents(WISHES[0]), atol=1e-3)
    image = painter.pixels([latents])[0].astype(int)
    assert image.shape == (64, 64, 3)
    assert np.abs(image - oracle.pixels(WISHES[0])).max() <= 1


def test_a_mixed_batch_paints_what_each_paints_alone(painter: Painter) -> None:
    together = paint_rows(painter.denoiser, {key: painter.start(wish) for key, wish in WISHES.items()})
    for key, wish in WISHES.items():
        np.testing.assert_allclose(together[key], painter.latents(wish), atol=1e-3)
