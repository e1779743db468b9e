"""The painter: an ordinary Stable Diffusion pipeline of small parts, and how it is written to and read from a folder.

Decides the sizes of the variational autoencoder, the text encoder and the U-Net, and the sampler that is shipped. Knows no
training data.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from demo.vocabulary import MAX_LENGTH, load_tokenizer, save_tokenizer
from demo.world import SIZE
from stages.device.torchvision_shim import ensure_torchvision

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

LATENT_SIZE = SIZE // 4
LATENT_CHANNELS = 4
GUIDANCE = 3.0
NUM_STEPS = 20
_TEXT_WIDTH = 128
_VOCABULARY = 664


def new_vae() -> AutoencoderKL:
    """An untrained autoencoder: [batch, 3, 64, 64] <-> [batch, 4, 16, 16]."""
    ensure_torchvision()
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIZE,
        force_upcast=False,
    )


def new_unet() -> UNet2DConditionModel:
    """An untrained U-Net over [batch, 4, 16, 16], most of it at 8 x 8, where a CPU computes fastest for what it learns."""
    ensure_torchvision()
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 128, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=_TEXT_WIDTH,
        attention_head_dim=32,
        norm_num_groups=16,
    )


def new_text_encoder() -> CLIPTextModel:
    """An untrained text encoder, of the shape of the demo CLIP's text tower."""
    ensure_torchvision()
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=_VOCABULARY,
        hidden_size=_TEXT_WIDTH,
        intermediate_size=4 * _TEXT_WIDTH,
        projection_dim=_TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        hidden_act="gelu",
        bos_token_id=_VOCABULARY - 2,
        eos_token_id=_VOCABULARY - 1,
        pad_token_id=_VOCABULARY - 1,
    )
    return CLIPTextModel(config)


def save_painter(folder: Path, vae: AutoencoderKL, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
    """Writes the whole pipeline as fp16 into `folder`."""
    ensure_torchvision()
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    save_tokenizer(folder / "tokenizer")
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, steps_offset=1)
    pipeline = StableDiffusionPipeline(
        vae=_halved(vae),
        text_encoder=_halved(text_encoder),
        tokenizer=load_tokenizer(folder / "tokenizer"),
        unet=_halved(unet),
        scheduler=scheduler,
        safety_checker=cast(Any, None),
        feature_extractor=cast(Any, None),
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)


def load_painter(folder: Path, device: torch.device) -> StableDiffusionPipeline:
    """The pipeline in `folder`, in fp32, silent."""
    ensure_torchvision()
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        str(folder), torch_dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return cast("StableDiffusionPipeline", pipeline.to(device))


def _halved(model: Any) -> Any:
    if hasattr(model.config, "to_dict"):
        twin = type(model)(model.config)
    else:
        twin = type(model).from_config({name: value for name, value in model.config.items() if name != "_name_or_path"})
    twin.load_state_dict(model.state_dict())
    return twin.half().eval()
