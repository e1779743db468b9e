"""The checkpoints that all sides of the LLM benchmark load: SmolLM2 as an ordinary folder, and the demo's vision-language model
as a LLaVA one.

Decides that no answer ends early: the end token is one that the model never chooses, so that every side computes as many tokens
as were asked for. Knows no side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from demo.language_model import load_model, load_tokenizer
from demo.train import WEIGHTS
from stages.device.torchvision_shim import ensure_torchvision
from stages.vision.clip.projector import Projector
from stages.vision.clip.tower import OpenClipTower

NEVER = "<reponame>"  # in SmolLM2's vocabulary; answers to questions don't hold it, nor does the likeliest 0.9 of any token
IMAGE_SIZE = 64
_MEAN, _STD = 0.5, 0.25


def save_text_model(folder: Path) -> Path:
    """SmolLM2 in bfloat16, with its tokenizer and chat template."""
    model, tokenizer = _language_model()
    plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    plain.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_llava(folder: Path) -> Path:
    """The demo's tower, projector and SmolLM2 as one LLaVA checkpoint in bfloat16, with its processor."""
    ensure_torchvision()
    from transformers import CLIPImageProcessor, CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration
    from transformers.models.llava import LlavaProcessor

    language, tokenizer = _language_model()
    projector = Projector.load(WEIGHTS / "projector")
    tower = OpenClipTower(WEIGHTS / "clip", projector.config.vision_layer)
    visual: Any = tower.visual
    image_token = tokenizer.convert_tokens_to_ids(projector.config.image_token)
    vision = CLIPVisionConfig(
        hidden_size=projector.config.vision_width,
        intermediate_size=4 * projector.config.vision_width,
        num_hidden_layers=len(visual.transformer.resblocks),
        num_attention_heads=visual.transformer.resblocks[0].attn.num_heads,
        image_size=IMAGE_SIZE,
        patch_size=visual.conv1.kernel_size[0],
        hidden_act="gelu",
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=language.config,
        image_token_id=image_token,
        image_seq_length=projector.config.num_image_tokens,
        vision_feature_layer=projector.config.vision_layer,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    model.model.multi_modal_projector.load_state_dict(projector.state_dict())
    model.model.vision_tower.load_state_dict(clip_vision_state(visual.state_dict(), prefix=_prefix(model)), strict=False)
    model.generation_config = language.generation_config
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _processor(LlavaProcessor, CLIPImageProcessor, tokenizer, projector).save_pretrained(folder)
    return folder


def clip_vision_state(theirs: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """An open_clip vision transformer's weights under the names of `transformers`' CLIPVisionModel."""
    found = {
        "embeddings.class_embedding": theirs["class_embedding"],
        "embeddings.patch_embedding.weight": theirs["conv1.weight"],
        "embeddings.position_embedding.weight": theirs["positional_embedding"],
    }
    names = {"ln_pre": "pre_layrnorm", "ln_post": "post_layernorm"}
    found |= {f"{names[old]}.{kind}": theirs[f"{old}.{kind}"] for old in names for kind in ("weight", "bias")}
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    parts["attn.out_proj"] = "self_attn.out_proj"
    layers = sorted({int(name.split(".")[2]) for name in theirs if name.startswith("transformer.resblocks.")})
    for layer in layers:
        old, new = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            found |= {f"{new}.{name}.{kind}": theirs[f"{old}.{part}.{kind}"] for part, name in parts.items()}
            chunks = theirs[f"{old}.attn.in_proj_{kind}"].chunk(3)
            found |= {f"{new}.self_attn.{name}_proj.{kind}": part for name, part in zip("qkv", chunks, strict=True)}
    return {prefix + name: value for name, value in found.items()}


def _language_model() -> tuple[Any, Any]:
    model, tokenizer = load_model(torch.device("cpu")), load_tokenizer()
    end = tokenizer.convert_tokens_to_ids(NEVER)
    for settings in (model.config, model.generation_config):
        settings.eos_token_id = settings.pad_token_id = end
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.generation_config.do_sample = True  # or `transformers serve` draws nothing, whatever the temperature
    tokenizer.eos_token = tokenizer.pad_token = NEVER
    return model, tokenizer


def _prefix(model: Any) -> str:
    return "vision_model." if any(name.startswith("vision_model.") for name in model.model.vision_tower.state_dict()) else ""


def _processor(kind: Any, images: Any, tokenizer: Any, projector: Projector) -> Any:
    tokenizer.image_token = projector.config.image_token
    said = "message['content']"
    parts = (
        "{% if " + said + " is string %}{{ " + said + " }}{% else %}{% for part in " + said + " %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ '" + projector.config.image_token + "' }}{% endif %}"
        "{% endfor %}{% endif %}"
    )
    template = tokenizer.chat_template.replace(f" + {said} + ", " }}" + parts + "{{ ")
    return kind(
        image_processor=images(
            size={"shortest_edge": IMAGE_SIZE},
            crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            image_mean=[_MEAN] * 3,
            image_std=[_STD] * 3,
        ),
        tokenizer=tokenizer,
        patch_size=IMAGE_SIZE // 4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=projector.config.image_token,
        chat_template=template,
    )
