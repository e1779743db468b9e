"""A vae on a device with too little memory: what fits in pieces comes out, and slices change nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.checkpoints.checkpoint import LoadOptions
from stages.contract.errors import OutOfMemory
from stages.contract.recipe import NO_INPUTS
from stages.diffusion.messages import DecodeLatents, EncodeToLatents, Latents
from stages.diffusion.pieces import RETRY_AFTER
from stages.diffusion.vae import VaeDecoder, VaeEncoder
from stages.images.image import encode
from tests.stages.diffusion.painter import checkpoint_of

pytestmark = pytest.mark.models


class Cramped(torch.nn.Module):
    """A half of a vae that fits so many elements of input a channel, in one call."""

    def __init__(self, part: Any, fits: float) -> None:
        super().__init__()
        self.part, self.fits = part, fits
        self.sizes: list[tuple[int, ...]] = []
        self.num_out_of_memory = 0

    def forward(self, batch: torch.Tensor) -> Any:
        if batch[:, 0].numel() > self.fits:
            self.num_out_of_memory += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        self.sizes.append((len(batch), *batch.shape[-2:]))
        return self.part(batch)


def decoder(folder: Path, fits: float) -> tuple[VaeDecoder, Cramped]:
    stage = VaeDecoder.load(checkpoint_of(folder), LoadOptions())
    cramped = Cramped(stage._vae.model.call.decoder, fits)
    stage._vae.model.call.decoder = cramped
    return stage, cramped


def encoder(folder: Path, fits: float) -> tuple[VaeEncoder, Cramped]:
    stage = VaeEncoder.load(checkpoint_of(folder), LoadOptions())
    cramped = Cramped(stage._vae.model.call.encoder, fits)
    stage._vae.model.call.encoder = cramped
    return stage, cramped


def some_latents(count: int, side: int = 16) -> list[Any]:
    source = np.random.default_rng(7)
    smooth = source.standard_normal((count, 4, 1, 1)).astype(np.float32) * np.ones((1, 1, side, side), np.float32)
    return [DecodeLatents(Latents(one + 0.1 * source.standard_normal(one.shape).astype(np.float32))) for one in smooth]


def an_image(pixels: Any) -> EncodeToLatents:
    return EncodeToLatents(encode(pixels, "png"), 64, 64, max_pixels=10_000)


def decoded(stage: VaeDecoder, wanted: list[Any]) -> Any:
    return np.stack([one.pixels for one in stage.run([stage.prepare(each, NO_INPUTS) for each in wanted])]).astype(int)


def test_a_batch_that_does_not_fit_is_decoded_image_by_image_to_the_same_pixels(sd_folder: Path) -> None:
    whole = decoded(decoder(sd_folder, np.inf)[0], some_latents(3))
    stage, cramped = decoder(sd_folder, 16 * 16)
    np.testing.assert_allclose(decoded(stage, some_latents(3)), whole, atol=1)  # a value may round the other way
    assert cramped.sizes == [(1, 16, 16)] * 3
    decoded(stage, some_latents(3))
    assert cramped.num_out_of_memory == 1  # it knows now


def test_an_image_that_does_not_fit_alone_is_decoded_in_tiles(sd_folder: Path) -> None:
    whole = decoded(decoder(sd_folder, np.inf)[0], some_latents(1, 32))
    stage, cramped = decoder(sd_folder, 16 * 16)
    tiled = decoded(stage, some_latents(1, 32))
    assert tiled.shape == whole.shape
    assert np.abs(tiled - whole).mean() < 16
    assert max(max(size) for size in cramped.sizes) == 16
    assert not stage._vae.model.call.use_tiling
    small = decoded(decoder(sd_folder, np.inf)[0], some_latents(1))
    np.testing.assert_array_equal(decoded(stage, some_latents(1)), small)  # what fits is not tiled


def test_the_whole_is_tried_again_after_a_while(sd_folder: Path) -> None:
    stage, cramped = decoder(sd_folder, 16 * 16)
    decoded(stage, some_latents(2))
    cramped.fits = np.inf
    for _ in range(RETRY_AFTER):
        decoded(stage, some_latents(2))
    assert cramped.sizes[-1] == (2, 16, 16)


@pytest.mark.parametrize(
    ("make", "item"), [(decoder, some_latents(1)[0]), (encoder, an_image(np.zeros((64, 64, 3), np.uint8)))]
)
def test_an_image_that_fits_in_no_tile_is_out_of_memory(
    sd_folder: Path, make: Callable[[Path, float], tuple[Any, Cramped]], item: Any
) -> None:
    stage, _ = make(sd_folder, 3)
    with pytest.raises(OutOfMemory, match="64 pixels a side does not fit, not even in tiles"):
        stage.run([stage.prepare(item, NO_INPUTS)])


def test_images_are_encoded_in_slices_and_tiles_too(sd_folder: Path) -> None:
    source = np.random.default_rng(3)
    items = [an_image(source.integers(0, 256, (64, 64, 3)).astype(np.uint8)) for _ in range(2)]

    def run(fits: float) -> tuple[Any, Cramped]:
        stage, cramped = encoder(sd_folder, fits)
        return stage.run([stage.prepare(item, NO_INPUTS) for item in items]), cramped

    whole, _ = run(np.inf)
    sliced, _ = run(64 * 64)
    for one, same in zip(whole, sliced, strict=True):
        np.testing.assert_allclose(one.latents, same.latents, atol=1e-5)
        np.testing.assert_allclose(one.std, same.std, atol=1e-5)
    tiled, cramped = run(32 * 32)
    assert tiled[0].latents.shape == whole[0].latents.shape
    assert max(max(size) for size in cramped.sizes) == 32


def test_another_error_is_no_reason_for_pieces(sd_folder: Path) -> None:
    stage, _ = decoder(sd_folder, np.inf)
    stage._vae.model.call.decoder = torch.nn.Linear(3, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        decoded(stage, some_latents(2))
