"""Trains the painter's autoencoder on drawn scenes.

Decides what it sees (first windows of 32 x 32 around shapes, which are cheap, then whole images) and its losses: absolute
and squared error of the image, and a light pull of the latents towards a unit normal, so that the decoder forgives small
errors of the denoiser. Afterwards the decoder alone is trained on: on whole images, white shapes weighed more, with a little
noise on the latents. What a denoiser was trained on stays as it is. Knows no sentences and no denoiser.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demo.drawing import pixels
from demo.painter import load_painter, new_vae, save_painter
from demo.training.loop import WORK, Budget, Loop, Recipe
from demo.training.pale import training_facts, weights
from demo.world import SIZE, Place, compose, place, random_scene

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

RECIPE = Recipe(learning_rate=1.5e-3, batch_size=16, weight_decay=0.0, averaging=0.995)
DECODER_RECIPE = Recipe(learning_rate=1e-3, batch_size=16, weight_decay=0.0, averaging=0.995)
VAE_FOLDER = WORK / "vae"
_PULL = 5e-4
_WINDOWS_UNTIL = 0.6
_NOISE = 0.1  # on latents of unit spread, when the decoder is trained alone


def drawn(rng: random.Random, count: int, device: torch.device, *, window: int = SIZE) -> Tensor:
    """`count` fresh images from the training side of the split, [count, 3, window, window] in -1..1."""
    scenes = [random_scene(rng, held_out=False) for _ in range(count)]
    return signed(np.stack([_window(pixels(scene), rng.choice(scene.places), window, rng) for scene in scenes]), device)


def _window(image: NDArray[np.uint8], around: Place, window: int, rng: random.Random) -> NDArray[np.uint8]:
    corners = (round(middle + rng.uniform(-9, 9)) - window // 2 for middle in (around.y, around.x))
    top, left = (min(max(corner, 0), SIZE - window) for corner in corners)
    return image[top : top + window, left : left + window]


def signed(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """[batch, 64, 64, 3] bytes -> [batch, 3, 64, 64] in -1..1."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(budget: Budget, device: torch.device, folder: Path = VAE_FOLDER) -> None:
    """Trains the autoencoder and writes it, in fp32 and with its measured scaling factor, into `folder`."""
    torch.manual_seed(2)
    vae = new_vae().to(device, memory_format=torch.channels_last)
    loop = Loop("vae", vae, RECIPE, budget)
    rng = random.Random(2_000 + loop.num_steps)

    def step(_: int) -> dict[str, Tensor]:
        window = SIZE // 2 if loop.progress < _WINDOWS_UNTIL else SIZE
        images = drawn(rng, RECIPE.batch_size, device, window=window).contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(images).latent_dist
        error = vae.decode(posterior.sample()).sample - images
        wrong, squared = error.abs().mean(), error.square().mean()
        pull = posterior.kl().mean() / posterior.mean[0].numel()
        return {"loss": wrong + 2 * squared + _PULL * pull, "absolute": wrong, "squared": squared, "pull": pull}

    loop.run(step)
    trained = cast("AutoencoderKL", loop.trained())
    trained.register_to_config(scaling_factor=_scaling_factor(trained, rng, device))
    trained.save_pretrained(folder)


def train_decoder(painter: Path, budget: Budget, device: torch.device) -> None:
    """Trains the decoder of the painter in this folder on, and writes the painter back."""
    torch.manual_seed(5)
    pipeline = load_painter(painter, device)
    vae = pipeline.vae.to(memory_format=torch.channels_last)
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)
    loop = Loop("vae-decoder", vae, DECODER_RECIPE, budget)
    rng = random.Random(5_000 + loop.num_steps)

    def step(_: int) -> dict[str, Tensor]:
        put = (compose, place)
        scenes = [put[index % 2](training_facts(rng), rng) for index in range(DECODER_RECIPE.batch_size)]
        images = signed(np.stack([pixels(scene) for scene in scenes]), device).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mean
            latents = latents + torch.randn_like(latents) * (_NOISE / vae.config.scaling_factor)
        error = (vae.decode(latents).sample - images) * weights(scenes, SIZE).to(device)
        wrong, squared = error.abs().mean(), error.square().mean()
        return {"loss": wrong + 2 * squared, "absolute": wrong, "squared": squared}

    loop.run(step)
    save_painter(painter, cast("AutoencoderKL", loop.trained()), pipeline.text_encoder, pipeline.unet)


@torch.no_grad()
def _scaling_factor(vae: AutoencoderKL, rng: random.Random, device: torch.device) -> float:
    means = vae.encode(drawn(rng, 256, device)).latent_dist.mean
    spread = means.std(dim=(0, 2, 3))
    print(f"vae: latent means {means.mean(dim=(0, 2, 3)).tolist()} deviations {spread.tolist()}", flush=True)
    return round(1 / float(means.square().mean().sqrt()), 4)
