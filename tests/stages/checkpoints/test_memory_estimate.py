"""What a stage will need, from headers and settings: compared with what is allocated, and refused with figures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from stages.checkpoints.checkpoint import LoadOptions, Source
from stages.checkpoints.memory_estimate import Estimate, Slots, estimate, refuse_if_too_large, slot_bytes, step_bytes
from stages.contract.errors import ConfigurationError
from stages.contract.limits import BatchLimits, QueueLimits
from stages.device.device_memory import free_bytes
from stages.host.registry import LlmOptions, StageKind, StageSpec, load

CONFIG = {
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "vocab_size": 100,
}
SLOTS = Slots(num_slots=5, max_context_tokens=63, prefill_chunk_tokens=16)
GIB = 2**30


def save(folder: Path, config: dict[str, Any], **files: dict[str, tuple[int, ...]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name, shapes in files.items():
        tensors = {key: np.zeros(shape, np.float16) for key, shape in shapes.items()}
        save_file(tensors, folder / f"{name.replace('__', '.')}.safetensors")
    return folder


def of_folder(folder: Path, kind: str, dtype: str, slots: Slots | None) -> Estimate:
    return estimate(folder, sorted(folder.glob("*")), kind, "transformers", dtype, slots)


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_weights_count_in_the_dtype_they_are_loaded_in(tmp_path: Path, dtype: str, width: int) -> None:
    folder = save(tmp_path, {}, model={"a": (10, 10), "b": (5,)})
    assert of_folder(folder, "llm", dtype, None) == Estimate(105 * width)


def test_of_a_vision_language_model_the_llm_is_what_does_not_see(tmp_path: Path) -> None:
    names: dict[str, tuple[int, ...]] = {
        "model.language_model.layers.0.w": (10,),
        "lm_head.weight": (7,),
        "model.visual.w": (1000,),
        "vision_tower.w": (1000,),
        "multi_modal_projector.w": (1000,),
    }
    folder = save(tmp_path, {"text_config": CONFIG}, model=names)
    found = of_folder(folder, "llm", "float32", SLOTS)
    assert found.weights == 17 * 4
    assert found.slots == slot_bytes(CONFIG, SLOTS, 4)
    assert of_folder(folder, "vision_encoder", "float32", None).weights == 3000 * 4


def test_slots_take_what_the_slot_cache_allocates(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from stages.llm.model.slot_cache import SlotLayer

    layer = SlotLayer(SLOTS.num_slots, SLOTS.max_context_tokens)
    states = torch.zeros(1, 2, 1, 8)
    layer.lazy_initialization(states, states)
    allocated = 3 * (layer.keys.nbytes + layer.values.nbytes)
    assert slot_bytes(CONFIG, SLOTS, 4) == allocated
    assert slot_bytes(CONFIG | {"head_dim": 16}, SLOTS, 4) == 2 * allocated


def test_figures_for_every_layer_count_as_the_smallest_and_missing_ones_as_nothing() -> None:
    assert slot_bytes(CONFIG | {"num_key_value_heads": [2, 4, 8]}, SLOTS, 4) == slot_bytes(CONFIG, SLOTS, 4)
    assert step_bytes(CONFIG | {"intermediate_size": [64, 128, 256]}, SLOTS, 4) == step_bytes(CONFIG, SLOTS, 4)
    assert slot_bytes({"num_hidden_layers": 3}, SLOTS, 4) == 0


def test_what_no_file_tells_counts_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 20)
    assert of_folder(tmp_path, "llm", "float32", SLOTS) == Estimate(0)


def test_a_refusal_gives_the_figures_and_the_settings_to_change() -> None:
    needed = Estimate(weights=14 * GIB, slots=96 * GIB, step=GIB)
    with pytest.raises(ConfigurationError) as refused:
        refuse_if_too_large("see.llm", needed, 78 * GIB, "cuda", SLOTS)
    for words in (
        "see.llm needs at least 111.00 GiB",
        "weights 14.00 GiB",
        "5 slots of 63 tokens 96.00 GiB",
        "cuda has 78.00 GiB free",
        "num_slots, max_context_tokens, prefill_chunk_tokens, dtype",
    ):
        assert words in refused.value.message


@pytest.mark.parametrize("free", [None, 10 * GIB, 9 * GIB + GIB // 2])
def test_what_may_fit_is_not_refused(free: int | None) -> None:
    refuse_if_too_large("see.llm", Estimate(10 * GIB), free, "cuda", None)


def test_this_machine_tells_what_is_free() -> None:
    free = free_bytes("cpu")
    assert free is not None
    assert 0 < free < 2**50
    assert free_bytes("paced") is None


def test_an_llm_whose_slots_fit_no_machine_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    folder = save(tmp_path, CONFIG, model={"a": (10,)})
    spec = StageSpec(
        name="see.llm",
        kind=StageKind.LLM,
        loader="transformers",
        source=Source(folder=str(folder)),
        options=LoadOptions(),
        batch=BatchLimits(),
        queue=QueueLimits(),
        llm=LlmOptions(num_slots=1024, max_context_tokens=10_000_000, prefill_chunk_tokens=256),
    )
    with pytest.raises(ConfigurationError, match=r"1024 slots of 10000000 tokens .* lower num_slots, max_context_tokens"):
        load(spec)
