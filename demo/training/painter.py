"""Trains the painter's text encoder and U-Net together, by flow matching in the autoencoder's latents.

Decides where scenes' shapes lie (`compose`), how often the sentence is left out for classifier-free guidance, and the
objective (Lipman et al., "Flow Matching for Generative Modeling", 2022): a latent and noise are mixed on a straight line, and
the U-Net predicts noise minus latent. The pool of encoded scenes is refreshed all along. The text encoder starts from the demo
CLIP's text tower, as Stable Diffusion's does. An auxiliary head, thrown away afterwards, asks the middle of the U-Net which
shape lies where, so that it learns early what the sentence wants (after Yu et al., "Representation Alignment", 2024).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from demo.drawing import pixels
from demo.painter import load_painter, new_text_encoder, new_unet, save_painter
from demo.sentences import wording
from demo.training.dense import PLACE_WIDTH, place_loss
from demo.training.loop import Budget, Loop, Recipe
from demo.training.pale import training_facts, weights
from demo.training.vae import VAE_FOLDER, signed
from demo.vocabulary import MAX_LENGTH, load_tokenizer
from demo.world import Facts, Scene, compose, random_scene
from stages.device.torchvision_shim import ensure_torchvision

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

RECIPE = Recipe(learning_rate=8e-4, batch_size=24, weight_decay=0.01, averaging=0.998)
_FURTHER = replace(RECIPE, learning_rate=5e-4)
_POOL = 8_000
_FRESH = 8  # scenes redrawn each step
_SILENCE = 0.1
_PLACES = 0.1  # weight of the auxiliary loss


class TextToLatent(nn.Module):
    """The two parts that are trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = new_text_encoder()
        self.unet = new_unet()
        width = self.unet.config.block_out_channels[-1]
        self.place_norm, self.place_head = nn.LayerNorm(width), nn.Linear(width, PLACE_WIDTH)
        self._middle = torch.empty(0)
        self.unet.mid_block.register_forward_hook(self._keep_middle)

    def forward(self, tokens: Tensor, latents: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids [batch, 32], noisy latents [batch, 4, 16, 16], times [batch] in 0..1.

        -> velocities like the latents, and places [batch, 16, PLACE_WIDTH] read off the middle of the U-Net.
        """
        states = self.text_encoder(tokens).last_hidden_state
        velocity: Tensor = self.unet(latents, times * 1000, states).sample
        return velocity, self.place_head(self.place_norm(self._middle.flatten(2).transpose(1, 2)))

    def _keep_middle(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._middle = output


@dataclass(slots=True)
class Pool:
    """Scenes and their scaled latents [pool, 4, 16, 16], in fp16."""

    scenes: list[Scene]
    latents: Tensor

    def refresh(self, vae: AutoencoderKL, rng: random.Random, indices: list[int]) -> None:
        """Puts fresh scenes at these places."""
        scenes = [compose(training_facts(rng), rng) for _ in indices]
        self.latents[indices] = _encoded(vae, np.stack([pixels(scene) for scene in scenes]))
        for index, scene in zip(indices, scenes, strict=True):
            self.scenes[index] = scene


def fill_pool(vae: AutoencoderKL, rng: random.Random) -> Pool:
    """A pool of scenes from the training side of the split."""
    nothing = random_scene(rng, held_out=False)
    pool = Pool([nothing] * _POOL, torch.empty(_POOL, 4, 16, 16, dtype=torch.float16))
    for start in range(0, _POOL, 100):
        pool.refresh(vae, rng, list(range(start, start + 100)))
    return pool


def start_from_clip(text_encoder: CLIPTextModel, clip_weights: Path) -> None:
    """Copies an open_clip text tower into a transformers text encoder of the same shape."""
    clip = {name: value.float() for name, value in load_file(clip_weights).items() if not name.startswith("visual.")}
    state = {
        "embeddings.token_embedding.weight": clip["token_embedding.weight"],
        "embeddings.position_embedding.weight": clip["positional_embedding"],
        "final_layer_norm.weight": clip["ln_final.weight"],
        "final_layer_norm.bias": clip["ln_final.bias"],
    }
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    names["attn.out_proj"] = "self_attn.out_proj"
    for index in range(text_encoder.config.num_hidden_layers):
        theirs, ours = f"transformer.resblocks.{index}", f"encoder.layers.{index}"
        for kind in ("weight", "bias"):
            state |= {f"{ours}.{name}.{kind}": clip[f"{theirs}.{old}.{kind}"] for old, name in names.items()}
            parts = clip[f"{theirs}.attn.in_proj_{kind}"].chunk(3)
            state |= {f"{ours}.self_attn.{n}_proj.{kind}": part for n, part in zip("qkv", parts, strict=True)}
    prefix = "text_model." if any(name.startswith("text_model.") for name in text_encoder.state_dict()) else ""
    text_encoder.load_state_dict({prefix + name: value for name, value in state.items()})


def start_from_painter(model: TextToLatent, folder: Path) -> None:
    """Copies the text encoder and U-Net of a painter trained before; the auxiliary head starts afresh."""
    before = load_painter(folder, torch.device("cpu"))
    model.text_encoder.load_state_dict(before.text_encoder.state_dict())
    model.unet.load_state_dict(before.unet.state_dict())


def train(folder: Path, clip_folder: Path, budget: Budget, device: torch.device, *, further: bool = False) -> None:
    """Trains on the autoencoder in `VAE_FOLDER` and writes the whole pipeline into `folder`.

    `further` starts from the painter in `folder`, on that painter's own autoencoder.
    """
    ensure_torchvision()
    from diffusers import AutoencoderKL

    torch.manual_seed(4 if further else 3)
    vae_folder = folder / "vae" if further else VAE_FOLDER
    read = AutoencoderKL.from_pretrained(vae_folder, torch_dtype=torch.float32, use_safetensors=True, trust_remote_code=False)
    vae = cast("AutoencoderKL", read).to(device).eval()
    model = TextToLatent()
    if further:
        start_from_painter(model, folder)
    else:
        start_from_clip(model.text_encoder, clip_folder / "open_clip_model.safetensors")
    model.to(device).unet.to(memory_format=torch.channels_last)
    loop = Loop("painter", model, _FURTHER if further else RECIPE, budget)
    rng = random.Random(3_000 + loop.num_steps)
    pool, tokenizer = fill_pool(vae, rng), load_tokenizer(folder / "tokenizer")

    def step(_: int) -> dict[str, Tensor]:
        pool.refresh(vae, rng, [rng.randrange(_POOL) for _ in range(_FRESH)])
        chosen = [rng.randrange(_POOL) for _ in range(RECIPE.batch_size)]
        texts = ["" if rng.random() < _SILENCE else sentence(pool.scenes[index].facts, rng) for index in chosen]
        found = tokenizer(texts, padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="pt")
        scenes = [pool.scenes[index] for index in chosen]
        return _losses(model, found.input_ids.to(device), pool.latents[chosen].to(device).float(), scenes)

    loop.run(step)
    trained = cast(TextToLatent, loop.trained())
    save_painter(folder, vae, trained.text_encoder, trained.unet)


def sentence(facts: Facts, rng: random.Random) -> str:
    """A sentence to train on: the canonical one, three times in ten, or any wording."""
    return facts.canonical() if rng.random() < 0.3 else wording(facts, rng)


def _losses(model: TextToLatent, tokens: Tensor, latents: Tensor, scenes: list[Scene]) -> dict[str, Tensor]:
    noise = torch.randn_like(latents)
    times = torch.sigmoid(torch.randn(len(latents), device=latents.device) * 1.2 + 0.3)
    mixed = latents.lerp(noise, times[:, None, None, None])
    velocities, places = model(tokens, mixed, times)
    wrong = (velocities - noise + latents).square()
    flow, where = (wrong * weights(scenes, latents.shape[-1]).to(wrong.device)).mean(), place_loss(places, scenes)
    return {"loss": flow + _PLACES * where, "flow": flow, "places": where}


@torch.no_grad()
def _encoded(vae: AutoencoderKL, images: NDArray[np.uint8]) -> Tensor:
    latents: Tensor = vae.encode(signed(images, vae.device)).latent_dist.mean * vae.config.scaling_factor
    return latents.half().cpu()
