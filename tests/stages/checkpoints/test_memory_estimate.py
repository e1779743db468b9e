"""What a stage will need, from headers and settings: refused with figures where it can't fit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from stages.checkpoints.checkpoint import LoadOptions, Source
from stages.checkpoints.memory_estimate import Need, refuse_if_too_large, total, weights_need
from stages.checkpoints.part_files import Holds
from stages.contract.errors import ConfigurationError
from stages.contract.limits import BatchLimits, QueueLimits
from stages.device.device_memory import free_bytes
from stages.host.kinds.registry import StageSpec, load
from stages.llm.settings import LlmSettings
from stages.vision.vlm.files import holds_seeing, holds_speaking

GIB = 2**30


def save(folder: Path, config: dict[str, Any], **files: dict[str, tuple[int, ...]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name, shapes in files.items():
        tensors = {key: np.zeros(shape, np.float16) for key, shape in shapes.items()}
        save_file(tensors, folder / f"{name.replace('__', '.')}.safetensors")
    return folder


def weights_of(folder: Path, dtype: str = "float32", holds: Holds | None = None) -> int:
    return weights_need(folder, sorted(folder.glob("*")), dtype, holds).num_bytes


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_weights_count_in_the_dtype_they_are_loaded_in(tmp_path: Path, dtype: str, width: int) -> None:
    folder = save(tmp_path, {}, model={"a": (10, 10), "b": (5,)})
    assert weights_of(folder, dtype) == 105 * width


@pytest.mark.parametrize(
    ("model", "seeing"),
    [("qwen2_5_vl", ["model.visual.w"]), ("llava", ["vision_tower.w", "model.multi_modal_projector.w"])],
)
def test_of_a_vision_language_model_each_part_counts_what_it_loads(tmp_path: Path, model: str, seeing: list[str]) -> None:
    speaking: dict[str, tuple[int, ...]] = {"model.language_model.layers.0.w": (10,), "lm_head.weight": (7,)}
    folder = save(tmp_path, {"model_type": model}, model=speaking | dict.fromkeys(seeing, (1000,)))
    assert weights_of(folder, holds=holds_speaking) == 17 * 4
    assert weights_of(folder, holds=holds_seeing) == len(seeing) * 1000 * 4


def test_of_a_language_model_that_sees_nothing_everything_counts(tmp_path: Path) -> None:
    folder = save(tmp_path, {"model_type": "llama"}, model={"model.layers.0.w": (10,)})
    assert weights_of(folder, holds=holds_speaking) == 40


def test_what_no_file_tells_counts_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 20)
    assert weights_of(tmp_path) == 0


def test_a_refusal_gives_the_figures_and_the_settings_to_change() -> None:
    needs = [
        Need("weights", 14 * GIB, ("dtype",)),
        Need("5 slots of 63 tokens", 96 * GIB, ("num_slots", "max_context_tokens")),
        Need("a step", GIB, ("num_slots", "max_context_tokens")),
        Need("nothing", 0, ("nobody",)),
    ]
    with pytest.raises(ConfigurationError) as refused:
        refuse_if_too_large("see.llm", needs, 78 * GIB, "cuda")
    assert refused.value.message == (
        "models.*.llm: see.llm needs at least 111.00 GiB of memory (weights 14.00 GiB, 5 slots of 63 tokens 96.00 GiB, a step "
        "1.00 GiB), and cuda has 78.00 GiB free; lower num_slots, max_context_tokens, dtype, or give it a larger device"
    )
    assert total(needs) == 111 * GIB


@pytest.mark.parametrize("free", [None, 10 * GIB, 9 * GIB + GIB // 2])
def test_what_may_fit_is_not_refused(free: int | None) -> None:
    refuse_if_too_large("see.llm", [Need("weights", 10 * GIB, ("dtype",))], free, "cuda")


def test_this_machine_tells_what_is_free() -> None:
    free = free_bytes("cpu")
    assert free is not None
    assert 0 < free < 2**50
    assert free_bytes("paced") is None


def test_an_llm_whose_slots_fit_no_machine_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32}
    folder = save(tmp_path, config, model={"a": (10,)})
    spec = StageSpec(
        name="see.llm",
        kind="llm",
        loader="transformers",
        source=Source(folder=str(folder)),
        options=LoadOptions(),
        batch=BatchLimits(),
        queue=QueueLimits(),
        settings=LlmSettings(num_slots=1024, max_context_tokens=10_000_000, prefill_chunk_tokens=256),
    )
    with pytest.raises(ConfigurationError, match=r"1024 slots of 10000000 tokens .* lower num_slots, max_context_tokens"):
        load(spec)
