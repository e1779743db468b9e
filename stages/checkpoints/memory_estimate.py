"""What a stage will need of its device's memory, told before it is loaded from the settings and headers of its own files.

Decides what counts: the part's weights in the dtype they are loaded in, an LLM's slots, and what an LLM's largest step holds
beside them. The largest batch of other stages does not count: it is lowered where it doesn't fit (`memory_bound.py`). Each figure
is a lower bound, so what is refused could not have run; what is not refused may still run out. Reads JSON and the headers of
safetensors files, no weights; knows no torch.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.checkpoints.safetensors_headers import stored_tensors
from stages.contract.errors import ConfigurationError

SURE = 1.1  # what is free may be a little more by the time that it is needed
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_STORED_BYTES = {"F64": 8, "F32": 4, "I64": 8, "I32": 4, "BF16": 2, "F16": 2, "I16": 2}
_SEEING = re.compile(r"(^|\.)(vision_\w+|visual|multi_modal_projector|image_\w+)\.")


@dataclass(frozen=True, slots=True)
class Slots:
    """Of an LLM."""

    num_slots: int
    max_context_tokens: int
    prefill_chunk_tokens: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes."""

    weights: int
    slots: int = 0
    step: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.slots + self.step


def estimate(folder: Path, files: Iterable[Path], kind: str, loader: str, dtype: str, slots: Slots | None) -> Estimate:
    """`files`: the part's own, in `folder`; `kind` and `loader` as in `stages/host/registry.py`. What they don't
    tell counts as 0."""

    def counts(name: str) -> bool:
        """One file may hold both halves of a vision-language model."""
        sees = _SEEING.search(name) is not None
        return loader != "transformers" or sees == (kind == "vision_encoder")

    weights = weight_bytes(files, dtype, counts)
    config = _json(folder / "config.json")
    text: Mapping[str, Any] = config.get("text_config", config)
    if slots is None or "num_hidden_layers" not in text:
        return Estimate(weights)
    width = _BYTES.get(dtype, 2)
    return Estimate(weights, slot_bytes(text, slots, width), step_bytes(text, slots, width))


def refuse_if_too_large(stage: str, needed: Estimate, free: int | None, device: str, slots: Slots | None) -> None:
    """Raises `ConfigurationError` with the figures where the device can't hold it."""
    if free is None or needed.total <= SURE * free:
        return
    parts = [f"weights {_size(needed.weights)}"]
    knobs = ["dtype"]
    if slots is not None and needed.slots:
        parts += [
            f"{slots.num_slots} slots of {slots.max_context_tokens} tokens {_size(needed.slots)}",
            f"a step {_size(needed.step)}",
        ]
        knobs = ["num_slots", "max_context_tokens", "prefill_chunk_tokens", "dtype"]
    raise ConfigurationError(
        f"models.*.{stage.rpartition('.')[2]}: {stage} needs at least {_size(needed.total)} of memory ({', '.join(parts)}), and "
        f"{device} has {_size(free)} free; lower {', '.join(knobs)}, or give it a larger device"
    )


def slot_bytes(text: Mapping[str, Any], slots: Slots, width: int) -> int:
    """Keys and values of every slot, as `stages/llm/model/slot_cache.py` allocates them. `text`: a decoder's config.json."""
    heads = _least(text, "num_attention_heads")
    head_dim = _least(text, "head_dim") or _least(text, "hidden_size") // max(1, heads)
    kv_heads = _least(text, "num_key_value_heads") or heads
    per_token = _least(text, "num_hidden_layers") * kv_heads * head_dim * 2 * width
    return per_token * (slots.max_context_tokens + 1) * slots.num_slots


def step_bytes(text: Mapping[str, Any], slots: Slots, width: int) -> int:
    """The logits of every slot in float32, and of a prompt's chunk the hidden states and the inside of one feed-forward layer."""
    hidden = _least(text, "hidden_size")
    inner = _least(text, "intermediate_size") or 4 * hidden
    logits = slots.num_slots * _least(text, "vocab_size") * 4
    return logits + slots.prefill_chunk_tokens * (2 * hidden + 2 * inner) * width


def _least(text: Mapping[str, Any], name: str) -> int:
    """A number; of a list with one for every layer the smallest; 0 where it doesn't say."""
    value = text.get(name)
    numbers = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int)]
    return min(numbers, default=0)


def weight_bytes(files: Iterable[Path], dtype: str, counts: Callable[[str], bool]) -> int:
    """Of the tensors in safetensors files whose names count, loaded as `dtype`."""
    return sum(
        math.prod(tensor.shape) * _BYTES.get(dtype, _STORED_BYTES.get(tensor.dtype, 1))
        for tensor in stored_tensors(files)
        if counts(tensor.name)
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
