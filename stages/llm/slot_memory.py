"""What an LLM will need of memory beside its weights: its slots, and what its largest step holds. Pure arithmetic over a
config.json; each figure is a lower bound, and what the config doesn't tell counts as nothing."""

from collections.abc import Mapping
from typing import Any

from stages.llm.settings import LlmSettings


def slot_bytes(text: Mapping[str, Any], settings: LlmSettings, width: int) -> int:
    """Keys and values of every slot, as `stages/llm/model/slot_cache.py` allocates them. `text`: a decoder's config.json; `width`:
    bytes of a number."""
    heads = _least(text, "num_attention_heads")
    head_dim = _least(text, "head_dim") or _least(text, "hidden_size") // max(1, heads)
    kv_heads = _least(text, "num_key_value_heads") or heads
    per_token = _least(text, "num_hidden_layers") * kv_heads * head_dim * 2 * width
    return per_token * (settings.max_context_tokens + 1) * settings.num_slots


def step_bytes(text: Mapping[str, Any], settings: LlmSettings, width: int) -> int:
    """The logits of every slot in float32, and of a prompt's chunk the hidden states and the inside of one feed-forward layer."""
    hidden = _least(text, "hidden_size")
    inner = _least(text, "intermediate_size") or 4 * hidden
    logits = settings.num_slots * _least(text, "vocab_size") * 4
    return logits + settings.prefill_chunk_tokens * (2 * hidden + 2 * inner) * width


def _least(text: Mapping[str, Any], name: str) -> int:
    """A number; of a list with one for every layer the smallest; 0 where it doesn't say."""
    value = text.get(name)
    numbers = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int)]
    return min(numbers, default=0)
