"""Image-to-image against the library's own pipelines, and the vae's two halves alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from stages.checkpoints.checkpoint import LoadOptions, Source
from stages.contract.errors import ConfigurationError, InvalidRequest, StageFailed, TooLarge
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.recipe import NO_INPUTS
from stages.diffusion.messages import DecodeLatents, EncodeToLatents, Latents, Pixels
from stages.diffusion.vae import VaeDecoder, VaeEncoder
from stages.host.kinds import registry
from stages.host.kinds.registry import StageSpec
from stages.images.image import encode
from tests.stages.diffusion.painter import Painter, Wish, checkpoint_of, oracle_of, paint_rows
from tests.stages.diffusion.tiny import save_flux, save_stable_diffusion, save_stable_diffusion_3, save_stable_diffusion_xl

pytestmark = pytest.mark.models

TOLERANCE = 1e-3
BUILDERS: dict[str, Callable[[Path], Path]] = {
    "StableDiffusion": save_stable_diffusion,
    "StableDiffusionXL": save_stable_diffusion_xl,
    "StableDiffusion3": save_stable_diffusion_3,
    "Flux": save_flux,
}


def an_image(seed: int = 0, height: int = 32, width: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_sent(image: NDArray[np.uint8], width: int = 32, height: int = 32) -> EncodeToLatents:
    return EncodeToLatents(encode(image, "png"), width, height, max_pixels=10_000)


def encoded(stage: VaeEncoder, *images: NDArray[np.uint8]) -> list[Latents]:
    return list(stage.run([stage.prepare(as_sent(image), NO_INPUTS) for image in images]))


def expected_latents(folder: Path, family: str, wish: Wish, strength: float) -> NDArray[np.float32]:
    kind: Any = getattr(diffusers, f"{family}Img2ImgPipeline")
    pipeline = kind.from_pipe(oracle_of(folder).pipeline)
    pipeline.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {"height": 32, "width": 32} if family in ("StableDiffusion3", "Flux") else {}
    if family != "Flux":
        settings |= {"negative_prompt": wish.negative}
    latents: torch.Tensor = pipeline(
        wish.prompt,
        image=Image.fromarray(an_image()),
        strength=strength,
        num_inference_steps=wish.steps,
        guidance_scale=wish.guidance,
        generator=torch.Generator("cpu").manual_seed(wish.seed),
        output_type="latent",
        **settings,
    ).images[0]
    if latents.ndim == 2:
        latents = torch.nn.functional.pixel_shuffle(latents.mT.reshape(1, -1, 4, 4), 2)[0]
    return latents.numpy()


@pytest.mark.parametrize("family", list(BUILDERS))
@pytest.mark.parametrize(("strength", "steps"), [(0.5, 5), (0.8, 4), (1.0, 3)])
def test_an_image_painted_over_is_the_librarys(tmp_path: Path, family: str, strength: float, steps: int) -> None:
    folder = BUILDERS[family](tmp_path)
    painter = Painter.load(folder)
    init = encoded(VaeEncoder.load(checkpoint_of(folder), LoadOptions()), an_image())[0]
    wish = Wish(steps=steps, negative=None if family == "Flux" else "blue")
    row = painter.start(painter.task(wish).but(init, strength=strength))
    latents = paint_rows(painter.denoiser, {0: row})[0]
    np.testing.assert_allclose(latents, expected_latents(folder, family, wish, strength), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("sampler", "class_name"),
    [
        ("pndm", "PNDMScheduler"),
        ("euler_a", "EulerAncestralDiscreteScheduler"),
        ("heun", "HeunDiscreteScheduler"),
        ("dpmpp_2m", "DPMSolverMultistepScheduler"),
        ("unipc", "UniPCMultistepScheduler"),
    ],
)
def test_samplers_begin_in_the_middle_as_the_librarys_do(tmp_path: Path, sampler: str, class_name: str) -> None:
    settings = {"skip_prk_steps": True} if sampler == "pndm" else {}
    own = getattr(diffusers, class_name)(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, **settings)
    folder = save_stable_diffusion(tmp_path, own)
    painter = Painter.load(folder)
    init = encoded(VaeEncoder.load(checkpoint_of(folder), LoadOptions()), an_image())[0]
    wish = Wish(steps=6, negative="blue", sampler=sampler)
    row = painter.start(painter.task(wish).but(init, strength=0.5))
    latents = paint_rows(painter.denoiser, {0: row})[0]
    np.testing.assert_allclose(latents, expected_latents(folder, "StableDiffusion", wish, 0.5), atol=TOLERANCE)


def test_painting_over_and_painting_share_steps(sd_folder: Path, sd_painter: Painter) -> None:
    init = encoded(VaeEncoder.load(checkpoint_of(sd_folder), LoadOptions()), an_image())[0]
    over = sd_painter.task(Wish(steps=6)).but(init, strength=0.5)
    alone = paint_rows(sd_painter.denoiser, {0: sd_painter.start(over)})[0]
    rows = {0: sd_painter.start(over), 1: sd_painter.start(Wish(seed=4))}
    together = paint_rows(sd_painter.denoiser, rows)
    np.testing.assert_allclose(together[0], alone, atol=TOLERANCE)
    np.testing.assert_allclose(together[1], sd_painter.latents(Wish(seed=4)), atol=TOLERANCE)


def test_latents_without_a_spread_are_taken_as_they_are(sd_painter: Painter) -> None:
    init = Latents(np.zeros((4, 8, 8), np.float32))
    row = sd_painter.start(sd_painter.task(Wish(steps=2)).but(init, strength=0.5))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    ratio = row.latents / noise
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))


def test_latents_of_another_size_are_refused(sd_painter: Painter) -> None:
    init = Latents(np.zeros((4, 8, 4), np.float32))
    with pytest.raises(StageFailed, match=r"init latents has shape \(4, 8, 4\); this size of image wants \(4, 8, 8\)"):
        sd_painter.prepare(sd_painter.task(Wish()).but(init))


def test_a_batch_of_images_is_encoded_as_one_by_one(sd_folder: Path) -> None:
    stage = VaeEncoder.load(checkpoint_of(sd_folder), LoadOptions())
    images = [an_image(seed) for seed in range(3)]
    together = encoded(stage, *images)
    for image, result in zip(images, together, strict=True):
        alone = encoded(stage, image)[0]
        assert result.std is not None
        assert alone.std is not None
        assert result.latents.shape == result.std.shape == (4, 8, 8)
        np.testing.assert_allclose(result.latents, alone.latents, atol=1e-5)
        np.testing.assert_allclose(result.std, alone.std, atol=1e-5)


@pytest.mark.parametrize("size", [(30, 32), (32, 2), (0, 32)])
def test_a_size_beside_the_multiple_is_refused(sd_folder: Path, size: tuple[int, int]) -> None:
    stage = VaeEncoder.load(checkpoint_of(sd_folder), LoadOptions())
    with pytest.raises(InvalidRequest, match="both sides must be multiples of 4") as caught:
        stage.check(as_sent(an_image(), *size))
    assert caught.value.param == "image"


def test_an_image_is_decoded_scaled_and_cut_as_it_is_prepared(sd_folder: Path) -> None:
    stage = VaeEncoder.load(checkpoint_of(sd_folder), LoadOptions())
    given = an_image(1, height=50, width=70)
    item = stage.prepare(as_sent(given, width=32, height=24), NO_INPUTS)
    expected = ImageOps.fit(Image.fromarray(given), (32, 24), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(item.pixels, np.asarray(expected))
    np.testing.assert_array_equal(stage.prepare(as_sent(given[:32, :32]), NO_INPUTS).pixels, given[:32, :32])


@pytest.mark.parametrize("data", [b"no image", encode(an_image(), "png")[:80]])
def test_what_is_no_image_is_the_requests_fault(sd_folder: Path, data: bytes) -> None:
    stage = VaeEncoder.load(checkpoint_of(sd_folder), LoadOptions())
    with pytest.raises(InvalidRequest, match="image: not an image that can be read") as caught:
        stage.prepare(EncodeToLatents(data, 32, 32, 10_000), NO_INPUTS)
    assert caught.value.param == "image"


def test_an_image_over_the_limit_is_refused_before_it_is_decoded(sd_folder: Path) -> None:
    stage = VaeEncoder.load(checkpoint_of(sd_folder), LoadOptions())
    with pytest.raises(TooLarge, match=r"1024 pixels; at most 1000 \(limits\.image_pixels\)"):
        stage.prepare(EncodeToLatents(encode(an_image(), "png"), 32, 32, 1000), NO_INPUTS)


def test_both_halves_weigh_before_they_prepare_what_they_cost_after(sd_folder: Path, sd_painter: Painter) -> None:
    encoder = VaeEncoder.load(checkpoint_of(sd_folder), LoadOptions())
    image, latents = as_sent(an_image(), 64, 32), DecodeLatents(Latents(np.zeros((4, 8, 16), np.float32)))
    item = encoder.prepare(image, NO_INPUTS)
    assert encoder.weigh(image) == encoder.cost(item) == 2048.0
    found = sd_painter.decoder.prepare(latents, NO_INPUTS)
    assert sd_painter.decoder.weigh(latents) == sd_painter.decoder.cost(found)
    assert (encoder.result_type, sd_painter.decoder.result_type) == (Latents, Pixels)


def test_latents_share_a_decoding_batch_by_shape_and_cost_their_pixels(sd_painter: Painter) -> None:
    stage = sd_painter.decoder
    small, wide = (stage.prepare(DecodeLatents(Latents(np.zeros((4, 8, w), np.float32))), NO_INPUTS) for w in (8, 16))
    assert stage.batch_key(small) != stage.batch_key(wide)
    assert (stage.cost(small), stage.cost(wide)) == (1024.0, 2048.0)


@pytest.mark.parametrize("shape", [(3, 8, 8), (4, 8)])
def test_latents_of_another_model_are_refused(sd_painter: Painter, shape: tuple[int, ...]) -> None:
    with pytest.raises(StageFailed, match="the denoiser is another model's"):
        sd_painter.decoder.prepare(DecodeLatents(Latents(np.zeros(shape, np.float32))), NO_INPUTS)


def test_a_vae_that_overflows_float16_is_loaded_in_float32(sd_folder: Path) -> None:
    for kind in ("vae_decoder", "vae_encoder"):
        for asked, used in (("float16", "float32"), ("bfloat16", "bfloat16")):
            options = LoadOptions(dtype=asked)
            source = Source(folder=str(sd_folder))
            loaded = registry.load(StageSpec("sd.vae", kind, "diffusers", source, options, BatchLimits(), QueueLimits()))
            assert loaded.dtype == used
            assert isinstance(loaded.stage, VaeDecoder | VaeEncoder)
            assert loaded.stage._vae.model.dtype is getattr(torch, used)


def test_each_half_of_the_vae_is_loaded_alone(sd_folder: Path) -> None:
    decoder = VaeDecoder.load(checkpoint_of(sd_folder), LoadOptions())._vae.model.call
    encoder = VaeEncoder.load(checkpoint_of(sd_folder), LoadOptions())._vae.model.call
    assert decoder.encoder is None
    assert encoder.decoder is None


def test_another_kind_of_vae_is_refused(tmp_path: Path) -> None:
    folder = save_stable_diffusion(tmp_path)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("AutoencoderKL", "AutoencoderTiny"))
    with pytest.raises(ConfigurationError, match="vae AutoencoderTiny is not supported"):
        VaeDecoder.load(checkpoint_of(folder), LoadOptions())
