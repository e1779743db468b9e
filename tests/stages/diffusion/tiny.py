"""Tiny checkpoints with random weights, in the real file formats: what the library's own pipelines save and load."""

import json
from pathlib import Path
from typing import Any

import torch

from stages.device.torchvision_shim import ensure_torchvision

ensure_torchvision()

from diffusers import (  # noqa: E402
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (  # noqa: E402
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

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


def t5_tokenizer() -> Any:
    letters = [(letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyz0123456789.,!"]
    marks = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5TokenizerFast(vocab=[*marks, *letters, ("▁red", -1.0)], extra_ids=0, model_max_length=512)


def t5_encoder(width: int = 32) -> Any:
    config = T5Config(vocab_size=50, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return T5EncoderModel(config)


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


def euler_scheduler() -> Any:
    """Settings as Stable Diffusion XL has them."""
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )


def save_stable_diffusion_xl(folder: Path, **vae: Any) -> Path:
    torch.manual_seed(0)
    sizes = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64}
    pipeline = StableDiffusionXLPipeline(
        vae=autoencoder(**vae),
        text_encoder=CLIPTextModel(clip_config()),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(16, projection_dim=16)),
        tokenizer=clip_tokenizer(folder / "words"),
        tokenizer_2=clip_tokenizer(folder / "words"),
        unet=unet(cross_attention_dim=48, **sizes),
        scheduler=euler_scheduler(),
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def save_stable_diffusion_3(folder: Path, *, t5: bool = True, scheduler: Any = None, channels: int = 4) -> Path:
    """`channels`: of its latents."""
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=channels,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=24,
        out_channels=channels,
        pos_embed_max_size=12,
    )
    pipeline = StableDiffusion3Pipeline(
        vae=autoencoder(scaling_factor=1.5305, shift_factor=0.0609, latent_channels=channels),
        text_encoder=CLIPTextModelWithProjection(clip_config(16, projection_dim=16)),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(8, projection_dim=8)),
        text_encoder_3=t5_encoder() if t5 else None,
        tokenizer=clip_tokenizer(folder / "words"),
        tokenizer_2=clip_tokenizer(folder / "words"),
        tokenizer_3=t5_tokenizer() if t5 else None,
        transformer=transformer,
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipeline.save_pretrained(folder)
    return folder


def save_flux(folder: Path, *, distilled: bool = True) -> Path:
    """`distilled`: with guidance as an input and a schedule for each size (dev), or with neither (schnell)."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=distilled,
    )
    pipeline = FluxPipeline(
        vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=CLIPTextModel(clip_config()),
        text_encoder_2=t5_encoder(),
        tokenizer=clip_tokenizer(folder / "words"),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0 if distilled else 1.0, use_dynamic_shifting=distilled),
    )
    pipeline.save_pretrained(folder)
    return folder


def save_stable_diffusion(folder: Path, scheduler: Any = None, **unet_settings: Any) -> Path:
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(clip_config()),
        tokenizer=clip_tokenizer(folder / "words"),
        unet=unet(**unet_settings),
        scheduler=scheduler or diffusion_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder
