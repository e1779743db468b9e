"""A tiny checkpoint of any architecture that `transformers` has a causal language model for.

Decides how its configuration is made small (the fields that most of them share, and a few hints by name) and that its random
weights are large enough for the context to matter. Knows nothing of how it is served.
"""

from pathlib import Path
from typing import Any

import torch

from stages.torchvision_shim import ensure_torchvision
from tests.stages.llm.tiny_models import save, text_arguments, tiny_tokenizer

SMALL: dict[str, Any] = text_arguments() | {
    "hidden_size": 64,
    "head_dim": 16,
    "sliding_window": 16,
    "attention_chunk_size": 16,
    "decoder_layers": 2,
    "encoder_layers": 1,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "encoder_ffn_dim": 64,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "rotary_dim": 8,
    "image_size": 28,
    "patch_size": 7,
}
"""Fields that are made small wherever a configuration has them."""

LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "head_dim": 8,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}
"""And of one whose keys are kept as latents."""

HINTS: dict[str, dict[str, Any]] = {}
"""What else the configuration of a `model_type` needs to be small, or to be one that runs at all."""


def tiny_config(kind: str, **more: Any) -> Any:
    """`kind`: a `model_type`."""
    ensure_torchvision()
    from transformers import AutoConfig

    return AutoConfig.for_model(kind, **(_known(AutoConfig.for_model(kind), SMALL) | HINTS.get(kind, {}) | more))


def _known(default: Any, small: dict[str, Any]) -> dict[str, Any]:
    """Of the small values, those for fields that the configuration has, and has a value for; its parts likewise."""
    small = small | LATENT if hasattr(default, "kv_lora_rank") else small
    known = {name: value for name, value in small.items() if vars(default).get(default.attribute_map.get(name, name)) is not None}
    for name in getattr(default, "sub_configs", {}):
        part = getattr(default, name, None)
        if part is not None:
            known[name] = _known(part, small)
    return known


def save_architecture(kind: str, folder: Path, **more: Any) -> Path:
    """Saved as any checkpoint is."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(kind, **more))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return save(model, folder, tiny_tokenizer())
