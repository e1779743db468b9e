"""Tiny vision-language checkpoints with their processors, saved by `transformers` itself."""

from pathlib import Path
from typing import Any

import torch

from stages.torchvision_shim import ensure_torchvision
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
    """16 patches a picture of 28 x 28."""
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
