"""Tiny vision-language checkpoints with their processors, saved by `transformers` itself."""

from pathlib import Path
from typing import Any

import torch

from stages.device.torchvision_shim import ensure_torchvision
from tests.stages.llm.tiny_models import CHAT_TEMPLATE, save, text_arguments, tiny_tokenizer

VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
    "initializer_range": 0.2,
}
QWEN_TEMPLATE = CHAT_TEMPLATE.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")


def save_llava(folder: Path) -> Path:
    """16 patches an image of 28 x 28."""
    ensure_torchvision()
    from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
    from transformers.models.llava import LlavaProcessor

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(extra_special_tokens={"image_token": "<image>"})
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=LlamaConfig(**text_arguments()),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    return _save_with_processor(LlavaForConditionalGeneration(config), folder, tokenizer, processor)


def save_llava_siglip(folder: Path) -> Path:
    """16 patches an image of 28 x 28; the tower has no class token, and its images are not cropped."""
    ensure_torchvision()
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipImageProcessor, SiglipVisionConfig
    from transformers.models.llava import LlavaProcessor

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(extra_special_tokens={"image_token": "<image>"})
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(**VISION),
        text_config=LlamaConfig(**text_arguments()),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        vision_feature_select_strategy="full",
    )
    processor = LlavaProcessor(
        image_processor=SiglipImageProcessor(size={"height": 28, "width": 28}),
        tokenizer=tokenizer,
        patch_size=7,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=CHAT_TEMPLATE,
    )
    return _save_with_processor(_larger_tower(LlavaForConditionalGeneration(config)), folder, tokenizer, processor)


def _larger_tower(model: Any) -> Any:
    """Towers that scale their random weights themselves: large enough for images to matter."""
    with torch.no_grad():
        for parameter in model.model.vision_tower.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return model


def save_pixtral(folder: Path) -> Path:
    """An image's features stand in rows, with a token between one and the next."""
    ensure_torchvision()
    from transformers import (
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        PixtralImageProcessor,
        PixtralVisionConfig,
    )
    from transformers.models.pixtral import PixtralProcessor

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(extra_special_tokens={"image_token": "<image>"})
    vision = {name: value for name, value in VISION.items() if name != "image_size"}
    config = LlavaConfig(
        vision_config=PixtralVisionConfig(**vision, image_size=56),
        text_config=LlamaConfig(**text_arguments()),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    processor = PixtralProcessor(
        image_processor=PixtralImageProcessor(size={"longest_edge": 56}, patch_size={"height": 7, "width": 7}),
        tokenizer=tokenizer,
        patch_size=7,
        image_token="<image>",
        image_break_token="<|vision_start|>",
        image_end_token="<|vision_end|>",
        chat_template=CHAT_TEMPLATE,
    )
    return _save_with_processor(LlavaForConditionalGeneration(config), folder, tokenizer, processor)


def save_qwen2_5_vl(folder: Path) -> Path:
    """Patches of 14 x 14, merged two by two."""
    ensure_torchvision()
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
        }
    )
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "vision_start", "vision_end")}
    config = Qwen2_5_VLConfig(
        text_config=text_arguments(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}),
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 48,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.2,
        },
        image_token_id=ids["image_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        video_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16}),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=QWEN_TEMPLATE,
    )
    return _save_with_processor(Qwen2_5_VLForConditionalGeneration(config), folder, tokenizer, processor)


def _save_with_processor(model: Any, folder: Path, tokenizer: Any, processor: Any) -> Path:
    save(model, folder, tokenizer)
    processor.save_pretrained(folder)
    return folder
