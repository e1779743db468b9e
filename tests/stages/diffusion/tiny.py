"""Tiny checkpoints with random weights, in the real file formats: what the library's own pipelines save and load."""

import json
from pathlib import Path
from typing import Any

import torch

from stages.torchvision_shim import ensure_torchvision

ensure_torchvision()

from diffusers import (  # noqa: E402
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer  # noqa: E402

PROMPT_LENGTH = 16
CLIP_VOCABULARY = 100


def clip_tokenizer(folder: Path) -> Any:
    """A tokenizer of letters and a few merges, from a vocab.json and merges.txt written here."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789.,!"]
    merges = [("r", "e"), ("re", "d</w>"), ("c", "i"), ("l", "e</w>")]
    pieces = letters + [letter + "</w>" for letter in letters] + [a + b for a, b in merges]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=PROMPT_LENGTH)


def clip_config(width: int = 32, **more: Any) -> Any:
    return CLIPTextConfig(
        vocab_size=CLIP_VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=PROMPT_LENGTH,
        bos_token_id=82,
        eos_token_id=83,
        pad_token_id=83,
        **more,
    )


def autoencoder(**more: Any) -> Any:
    """Four pixels a side for one latent position."""
    settings: dict[str, Any] = {
        "block_out_channels": (8, 8, 8),
        "norm_num_groups": 4,
        "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "sample_size": 32,
    }
    return AutoencoderKL(**(settings | more))


def unet(**more: Any) -> Any:
    settings: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**(settings | more))


def diffusion_scheduler(**more: Any) -> Any:
    """Settings as Stable Diffusion 1.5 has them."""
    settings: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "clip_sample": False,
    }
    return DDIMScheduler(**(settings | more))


def save_stable_diffusion(folder: Path, scheduler: Any = None) -> Path:
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(clip_config()),
        tokenizer=clip_tokenizer(folder / "words"),
        unet=unet(),
        scheduler=scheduler or diffusion_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder
