"""What an LLM needs beside its weights, compared with what is allocated."""

import pytest

from stages.llm.settings import LlmSettings
from stages.llm.slot_memory import slot_bytes, step_bytes

CONFIG = {
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "vocab_size": 100,
}
OPTIONS = LlmSettings(num_slots=5, max_context_tokens=63, prefill_chunk_tokens=16)


def test_slots_take_what_the_slot_cache_allocates() -> None:
    torch = pytest.importorskip("torch")
    from stages.llm.model.slot_cache import SlotLayer

    layer = SlotLayer(OPTIONS.num_slots, OPTIONS.max_context_tokens)
    states = torch.zeros(1, 2, 1, 8)
    layer.lazy_initialization(states, states)
    allocated = 3 * (layer.keys.nbytes + layer.values.nbytes)
    assert slot_bytes(CONFIG, OPTIONS, 4) == allocated
    assert slot_bytes(CONFIG | {"head_dim": 16}, OPTIONS, 4) == 2 * allocated


def test_figures_for_every_layer_count_as_the_smallest_and_missing_ones_as_nothing() -> None:
    assert slot_bytes(CONFIG | {"num_key_value_heads": [2, 4, 8]}, OPTIONS, 4) == slot_bytes(CONFIG, OPTIONS, 4)
    assert step_bytes(CONFIG | {"intermediate_size": [64, 128, 256]}, OPTIONS, 4) == step_bytes(CONFIG, OPTIONS, 4)
    assert slot_bytes({"num_hidden_layers": 3}, OPTIONS, 4) == 0
