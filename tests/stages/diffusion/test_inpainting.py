"""Painting within a mask: as the library's pipelines paint, in batches with others, wherever it goes on, and nothing outside."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from stages.checkpoints.checkpoint import LoadOptions
from stages.contract.errors import InvalidRequest, StageFailed
from stages.contract.recipe import NO_INPUTS, Inputs
from stages.diffusion.denoiser import Denoiser
from stages.diffusion.messages import DecodeLatents, EncodeToLatents, Latents, Original
from stages.diffusion.vae import VaeEncoder
from stages.images.image import encode
from tests.stages.diffusion.painter import Painter, Task, Wish, checkpoint_of, oracle_of, paint_rows
from tests.stages.diffusion.test_image_to_image import TOLERANCE, an_image
from tests.stages.diffusion.test_kept_states import at_hand, kept, latents, run
from tests.stages.diffusion.tiny import save_flux, save_stable_diffusion, save_stable_diffusion_3, save_stable_diffusion_xl
from tests.stages.image_files import save

pytestmark = pytest.mark.models

HOLE = (8, 8, 24, 20)  # of 32 x 32 pixels; latent positions are 4 x 4
BUILDERS: dict[str, Callable[[Path], Path]] = {
    "StableDiffusion": save_stable_diffusion,
    "StableDiffusionXL": save_stable_diffusion_xl,
    "StableDiffusion3": lambda folder: save_stable_diffusion_3(folder, channels=16),  # the library paints over no others
    "Flux": save_flux,
}


def a_mask(hole: tuple[int, int, int, int] = HOLE, side: int = 32) -> bytes:
    image = Image.new("RGBA", (side, side), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), hole)
    return save(image, "PNG")


def the_librarys_mask() -> Image.Image:
    """White where it is painted."""
    image = Image.new("L", (32, 32), 0)
    image.paste(255, HOLE)
    return image


def as_sent(mask: bytes | None = None) -> EncodeToLatents:
    return EncodeToLatents(encode(an_image(), "png"), 32, 32, 10_000, a_mask() if mask is None else mask)


def masked_init(folder: Path, mask: bytes | None = None) -> Latents:
    stage = VaeEncoder.load(checkpoint_of(folder), LoadOptions())
    (result,) = stage.run([stage.prepare(as_sent(mask), NO_INPUTS)])
    return result


def masked(painter: Painter, folder: Path, wish: Wish, strength: float = 1.0, mask: bytes | None = None) -> Task:
    return painter.task(wish).but(masked_init(folder, mask), strength=strength, masked=True)


def painted(painter: Painter, task: Task) -> NDArray[np.float32]:
    return paint_rows(painter.denoiser, {0: painter.start(task)})[0]


def expected_latents(folder: Path, family: str, wish: Wish, strength: float) -> NDArray[np.float32]:
    kind: Any = getattr(diffusers, f"{family}InpaintPipeline")
    pipeline = kind.from_pipe(oracle_of(folder).pipeline)
    pipeline.set_progress_bar_config(disable=True)
    more: dict[str, Any] = {} if family == "Flux" else {"negative_prompt": wish.negative}
    result: torch.Tensor = pipeline(
        wish.prompt,
        image=Image.fromarray(an_image()),
        mask_image=the_librarys_mask(),
        height=32,
        width=32,
        strength=strength,
        num_inference_steps=wish.steps,
        guidance_scale=wish.guidance,
        generator=torch.Generator("cpu").manual_seed(wish.seed),
        output_type="latent",
        **more,
    ).images[0]
    if result.ndim == 2:
        result = torch.nn.functional.pixel_shuffle(result.mT.reshape(1, -1, 4, 4), 2)[0]
    return result.numpy()


@pytest.mark.parametrize("family", list(BUILDERS))
@pytest.mark.parametrize(("strength", "steps"), [(0.5, 5), (1.0, 4)])
def test_what_is_painted_within_a_mask_is_the_librarys(tmp_path: Path, family: str, strength: float, steps: int) -> None:
    folder = BUILDERS[family](tmp_path)
    wish = Wish(steps=steps, negative=None if family == "Flux" else "blue")
    found = painted(painter := Painter.load(folder), masked(painter, folder, wish, strength))
    np.testing.assert_allclose(found, expected_latents(folder, family, wish, strength), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("sampler", "class_name"),
    [
        ("pndm", "PNDMScheduler"),
        ("ddim", "DDIMScheduler"),
        ("euler_a", "EulerAncestralDiscreteScheduler"),
        ("heun", "HeunDiscreteScheduler"),
        ("dpmpp_2m", "DPMSolverMultistepScheduler"),
        ("unipc", "UniPCMultistepScheduler"),
    ],
)
def test_every_kind_of_sampler_keeps_what_is_around_as_noisy_as_the_librarys(
    tmp_path: Path, sampler: str, class_name: str
) -> None:
    settings = {"skip_prk_steps": True} if sampler == "pndm" else {}
    own = getattr(diffusers, class_name)(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, **settings)
    folder = save_stable_diffusion(tmp_path, own)
    wish = Wish(steps=6, negative="blue", sampler=sampler)
    found = painted(painter := Painter.load(folder), masked(painter, folder, wish, 0.5))
    np.testing.assert_allclose(found, expected_latents(folder, "StableDiffusion", wish, 0.5), atol=TOLERANCE)


def test_rows_with_other_masks_and_with_none_share_steps(sd_folder: Path, sd_painter: Painter) -> None:
    tasks = [
        masked(sd_painter, sd_folder, Wish(steps=4)),
        masked(sd_painter, sd_folder, Wish(steps=4, seed=3), 0.5, a_mask((0, 0, 4, 32))),
        sd_painter.task(Wish(steps=5, seed=9)),
    ]
    alone = [painted(sd_painter, task) for task in tasks]
    together = paint_rows(sd_painter.denoiser, dict(enumerate(map(sd_painter.start, tasks))))
    for index, one in enumerate(alone):
        np.testing.assert_allclose(together[index], one, atol=TOLERANCE)


def test_around_the_mask_the_latents_are_the_images_own(sd_folder: Path, sd_painter: Painter) -> None:
    task = masked(sd_painter, sd_folder, Wish(steps=4))
    init = task.inputs[task.payload.init]  # type: ignore[index]
    assert init.mask is not None
    around = np.broadcast_to(init.mask == 0, init.latents.shape)
    generator = torch.Generator().manual_seed(1)
    drawn = init.latents + init.std * torch.randn(init.latents.shape, generator=generator).numpy()
    found = painted(sd_painter, task)
    np.testing.assert_allclose(found[around], drawn[around], atol=1e-5)
    assert np.abs(found - drawn)[~around].mean() > 0.01


@pytest.mark.parametrize("sampler", ["euler_a", "dpmpp_2m", "heun"])
def test_it_goes_on_elsewhere_from_any_step_as_if_nothing_had_been(sd_folder: Path, sd_painter: Painter, sampler: str) -> None:
    another = Denoiser.load(checkpoint_of(sd_folder), LoadOptions())
    task = kept(masked(sd_painter, sd_folder, Wish(steps=4, sampler=sampler), 0.75), 1, 2, 3, 4)
    events, pages = run(sd_painter.denoiser, task)
    for page in pages:
        again, _ = run(another, task, at_hand([page]))
        np.testing.assert_array_equal(latents(again), latents(events))


def test_it_is_suspended_and_resumed_like_any(sd_folder: Path, sd_painter: Painter) -> None:
    task = masked(sd_painter, sd_folder, Wish(steps=4, sampler="euler_a"))
    whole = painted(sd_painter, task)
    denoiser = sd_painter.denoiser
    prepared = sd_painter.prepare(task)
    row = denoiser.start(task.payload, prepared)
    denoiser.step([row])
    suspended = denoiser.suspend(row)
    denoiser.finish(row)
    resumed = denoiser.resume(task.payload, prepared, suspended)
    np.testing.assert_array_equal(paint_rows(denoiser, {0: resumed})[0], whole)


def test_who_goes_on_needs_the_image_for_what_is_around_and_not_when_it_is_done(sd_folder: Path, sd_painter: Painter) -> None:
    task = kept(masked(sd_painter, sd_folder, Wish(steps=4)), 2, 4)
    _, (half, done) = run(sd_painter.denoiser, task)
    needs = [recipe.name for recipe in sd_painter.denoiser.needs(task.payload, at_hand([half]))]
    assert needs == ["prompt", "negative", "init"]
    assert sd_painter.denoiser.needs(task.payload, at_hand([done])) == ()
    without = Inputs({name: task.inputs.get(name) for name in ("prompt", "negative")})  # type: ignore[misc]
    with pytest.raises(KeyError):
        sd_painter.denoiser.prepare(task.payload, without.with_more(at_hand([half])))


def test_latents_without_the_mask_that_was_asked_for_are_a_failure(sd_painter: Painter) -> None:
    init = Latents(np.zeros((4, 8, 8), np.float32))
    with pytest.raises(StageFailed, match=r"init mask has shape None; this size of image wants \(1, 8, 8\)"):
        sd_painter.prepare(sd_painter.task(Wish()).but(init, masked=True))


def test_what_the_mask_keeps_is_the_image_to_the_pixel(sd_folder: Path, sd_painter: Painter) -> None:
    decoder, image = sd_painter.decoder, an_image()
    drawn = [Latents(np.random.default_rng(seed).normal(size=(4, 8, 8)).astype(np.float32)) for seed in range(2)]
    original = Original(encode(image, "png"), a_mask(), 10_000)
    items = [
        decoder.prepare(DecodeLatents(drawn[0], original), NO_INPUTS),
        decoder.prepare(DecodeLatents(drawn[1]), NO_INPUTS),
    ]
    over, plain = (result.pixels for result in decoder.run(items))
    alone = decoder.run([decoder.prepare(DecodeLatents(drawn[0]), NO_INPUTS)])[0].pixels
    inside = np.zeros((32, 32), np.bool_)
    inside[HOLE[1] : HOLE[3], HOLE[0] : HOLE[2]] = True
    np.testing.assert_array_equal(over[~inside], image[~inside])
    np.testing.assert_allclose(over[inside].astype(int), alone[inside].astype(int), atol=1)
    assert (plain[~inside] != image[~inside]).any()


def test_a_mask_that_is_none_is_the_requests_fault(sd_folder: Path, sd_painter: Painter) -> None:
    opaque = a_mask((0, 0, 0, 0))
    encoder = VaeEncoder.load(checkpoint_of(sd_folder), LoadOptions())
    given = DecodeLatents(Latents(np.zeros((4, 8, 8), np.float32)), Original(encode(an_image(), "png"), opaque, 10_000))
    preparing = (lambda: encoder.prepare(as_sent(opaque), NO_INPUTS), lambda: sd_painter.decoder.prepare(given, NO_INPUTS))
    for prepare in preparing:
        with pytest.raises(InvalidRequest, match="mask: nothing of it is transparent") as caught:
            prepare()
        assert caught.value.param == "mask"


def test_a_mask_has_the_size_of_the_latents_and_travels_with_them(sd_folder: Path) -> None:
    result = masked_init(sd_folder)
    assert result.mask is not None
    assert result.mask.shape == (1, 8, 8)
    assert result.mask.dtype == np.float32
    assert result.mask.sum() == 4 * 3
    again = Latents.of(result.arrays())
    np.testing.assert_array_equal(again.mask, result.mask)
    assert Latents.of(replace(result, mask=None).arrays()).mask is None
