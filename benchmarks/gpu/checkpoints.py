"""Checkpoints of real sizes with random weights, in their real formats: nothing is downloaded, and speed and memory are what trained
ones have. Decides the shapes, by their makers' published configurations."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from benchmarks.gpu.part import Part
from stages.device.torchvision_shim import ensure_torchvision
from tests.stages.llm.tiny_models import CHAT_TEMPLATE, SPECIAL, save

QWEN = {"vocab": 151_936, "hidden": 1536, "inner": 8960, "layers": 28, "heads": 12, "kv_heads": 2}
"""Qwen2.5-1.5B."""
QWEN_TINY = {"vocab": 2000, "hidden": 64, "inner": 128, "layers": 2, "heads": 4, "kv_heads": 2}
_QWEN_MARKS = {
    "image_token": "<|image_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}


def kept(part: Part, name: str, save: Callable[[Path], Any]) -> Path:
    """The folder that `save` fills, once for all parts."""
    folder = part.folder / name
    with (part.folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            begun = part.folder / f"{name}.begun"
            save(begun)
            begun.rename(folder)
    return folder


def language_model(part: Part) -> Path:
    """In bfloat16."""
    shape = QWEN_TINY if part.quick else QWEN

    def write(folder: Path) -> None:
        from transformers import AutoModelForCausalLM, Qwen2Config

        config = Qwen2Config(**_text_arguments(shape), tie_word_embeddings=True)
        with torch.device(part.device):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        save(model, folder, tokenizer(shape["vocab"]))

    return kept(part, "qwen2.5-1.5b", write)


def seeing_model(part: Part) -> Path:
    """Qwen2.5-VL's tower over the language model above, in bfloat16."""
    shape = QWEN_TINY if part.quick else QWEN

    def write(folder: Path) -> None:
        from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

        words = tokenizer(shape["vocab"], **_QWEN_MARKS)
        vision: dict[str, Any] = {"out_hidden_size": shape["hidden"], "hidden_size": 1280}
        if part.quick:
            vision |= {"depth": 2, "hidden_size": 64, "num_heads": 4, "intermediate_size": 64, "fullatt_block_indexes": [1]}
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3] if part.quick else [16, 24, 24]}
        config = Qwen2_5_VLConfig(
            vision_config=vision,
            text_config=_text_arguments(shape) | {"rope_parameters": rope},
            image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
            vision_start_token_id=words.convert_tokens_to_ids("<|vision_start|>"),
            vision_end_token_id=words.convert_tokens_to_ids("<|vision_end|>"),
            video_token_id=words.convert_tokens_to_ids("<image>"),
        )
        with torch.device(part.device):
            model = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
        save(model, folder, words)
        _qwen_processor(words).save_pretrained(folder)

    return kept(part, "qwen2.5-vl", write)


def painter(part: Part) -> Path:
    """Stable Diffusion XL's U-Net, text encoders and VAE, in float16 (as it is published)."""

    def write(folder: Path) -> None:
        if part.quick:
            from tests.stages.diffusion.tiny import save_stable_diffusion_xl

            save_stable_diffusion_xl(folder)
        else:
            _stable_diffusion_xl(part, folder).save_pretrained(folder)

    return kept(part, "sdxl", write)


def tokenizer(num_tokens: int, **extra_special_tokens: str) -> Any:
    """Byte-level, with a text for every token; what it encodes is bytes."""
    ensure_torchvision()
    from transformers import PreTrainedTokenizerFast

    pieces = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += [f"w{number}" for number in range(num_tokens - len(pieces))]
    found = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=found,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        extra_special_tokens=extra_special_tokens,
    )


def _text_arguments(shape: dict[str, int]) -> dict[str, Any]:
    return {
        "vocab_size": shape["vocab"],
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["inner"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"],
        "max_position_embeddings": 32_768,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def _qwen_processor(words: Any) -> Any:
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    from tests.stages.llm.tiny_vlms import QWEN_TEMPLATE

    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(),
        tokenizer=words,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=QWEN_TEMPLATE,
    )


def _stable_diffusion_xl(part: Part, folder: Path) -> Any:
    ensure_torchvision()
    from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from tests.stages.diffusion.tiny import clip_tokenizer, euler_scheduler

    words = clip_tokenizer(folder / "words")
    words.model_max_length = 77
    ends = {"bos_token_id": 82, "eos_token_id": 83, "pad_token_id": 83, "max_position_embeddings": 77}
    small = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, **ends)
    large = CLIPTextConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280, **ends
    )
    with torch.device(part.device):
        unet = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=1024,
            scaling_factor=0.13025,
        )
        texts = CLIPTextModel(small), CLIPTextModelWithProjection(large)
    parts = [one.to(torch.float16) for one in (unet, vae, *texts)]
    return StableDiffusionXLPipeline(
        vae=parts[1],
        text_encoder=parts[2],
        text_encoder_2=parts[3],
        tokenizer=words,
        tokenizer_2=words,
        unet=parts[0],
        scheduler=euler_scheduler(),
        add_watermarker=False,
    )
