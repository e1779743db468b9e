"""A tiny checkpoint of any architecture that `transformers` has a causal language model for.

Decides how its configuration is made small (the fields that most of them share, and a few hints by name) and that its random
weights are large enough for the context to matter. Knows nothing of how it is served.
"""

from pathlib import Path
from typing import Any

import torch

from stages.device.torchvision_shim import ensure_torchvision
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

_LINEAR: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention"]}
_CONV: dict[str, Any] = {"layer_types": ["conv", "full_attention"]}
_MAMBA: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16}
_BY_LAYER: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"]}
_ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4}
_PER_LAYER_INPUTS: dict[str, Any] = _BY_LAYER | {
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 400,
}
_INDEXED: dict[str, Any] = {"layer_types": ["linear_attention", "indexed_attention"]} | {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
    "ngram_vocab_size_base": 400,
}

HINTS: dict[str, dict[str, Any]] = {
    "bailing_hybrid": _LINEAR,
    "bamba": _MAMBA | {"attn_layer_indices": [1]},
    "cohere_compass_text": _BY_LAYER | {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}},
    "dbrx": {"d_model": 64, "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "gemma3n": {"text_config": _PER_LAYER_INPUTS | {"activation_sparsity_pattern": [0.0, 0.0], "laurel_rank": 8}},
    "gemma3n_text": _PER_LAYER_INPUTS | {"activation_sparsity_pattern": [0.0, 0.0], "laurel_rank": 8},
    "gemma4": {"text_config": _PER_LAYER_INPUTS},
    "gemma4_text": _PER_LAYER_INPUTS,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "granitemoehybrid": _LINEAR | _MAMBA,
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "kimi_linear": _LINEAR,
    "lfm2_moe": _CONV,
    "lfm3": _CONV,
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 16},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "qwen3_5": {"text_config": _LINEAR},
    "qwen3_5_moe": {"text_config": _LINEAR},
    "qwen3_5_moe_text": _LINEAR,
    "qwen3_5_text": _LINEAR,
    "qwen3_next": _LINEAR,
    "qwen4_exp": {"text_config": _INDEXED},
    "qwen4_exp_text": _INDEXED,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "attention_window_size": 16},
    "reformer": {"is_decoder": True, "axial_pos_embds": False, "attn_layers": ["local", "lsh"]},
    "xlnet": {"d_head": 16},
    "xlstm": {"num_heads": 4, "num_blocks": 2, "embedding_dim": 64, "qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "mamba_dt_rank": 4,
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
    },
    "zaya": {"num_experts_per_tok": 1},
}
"""What else the configuration of a `model_type` needs to be small, or to be one that runs at all."""

_LONG: dict[str, Any] = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, LongRoPE over its original length": (
        "llama",
        {"rope_parameters": _LONG | {"factor": 8.0, "original_max_position_embeddings": 64}},
    ),
    "llama, LongRoPE within its original length": (
        "llama",
        {"rope_parameters": _LONG | {"factor": 4.0, "original_max_position_embeddings": 128}},
    ),
    "llama, dynamic NTK over its original length": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}, "max_position_embeddings": 64},
    ),
    "llama, YaRN": (
        "llama",
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 64}},
    ),
}
"""What is asked beside every `model_type`: what depends on more than that."""


def tiny_config(kind: str, **more: Any) -> Any:
    """`kind`: a `model_type`."""
    ensure_torchvision()
    from transformers import AutoConfig

    small = _known(AutoConfig.for_model(kind), SMALL)
    return AutoConfig.for_model(kind, **_merged(_merged(small, HINTS.get(kind, {})), more))


def _known(default: Any, small: dict[str, Any]) -> dict[str, Any]:
    """Of the small values, those for fields that the configuration has, and has a value for; its parts likewise."""
    values = vars(default)
    small = small | LATENT if "kv_lora_rank" in values else small
    known = {name: value for name, value in small.items() if values.get(default.attribute_map.get(name, name)) is not None}
    for name in getattr(default, "sub_configs", {}):
        if (part := values.get(name)) is not None:
            known[name] = _known(part, small)
    return known


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {name: _merged(one[name], other[name]) for name in one.keys() & other.keys() if isinstance(other[name], dict)}
    return one | other | both


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
