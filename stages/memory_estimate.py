"""What a stage will need of its device's memory, told before it is loaded from the settings and headers of its own files.

Decides what counts: the part's weights in the dtype they are loaded in, an LLM's slots, and what an LLM's largest step holds
beside them. The largest batch of other stages does not count: it is lowered where it doesn't fit (`memory_bound.py`). Each figure
is a lower bound, so what is refused could not have run; what is not refused may still run out. Reads JSON and the headers of
safetensors files (https://github.com/huggingface/safetensors#format), no weights; knows no torch.
"""

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.errors import ConfigurationError

SURE = 1.1  # what is free may be a little more by the time that it is needed
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_STORED_BYTES = {"F64": 8, "F32": 4, "I64": 8, "I32": 4, "BF16": 2, "F16": 2, "I16": 2}
_SEEING = re.compile(r"(^|\.)(vision_\w+|visual|multi_modal_projector|image_\w+)\.")
_MAX_HEADER_BYTES = 100 * 2**20


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


def estimate(folder: Path, kind: str, loader: str, dtype: str, slots: Slots | None) -> Estimate:
    """`kind` and `loader` as in `stages/registry.py`. What the files don't tell counts as 0."""
    weights = sum(
        weight_bytes(files, dtype, _SEEING if kind == "llm" else None) for files in _weight_files(folder, kind, loader)
    )
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
    """Keys and values of every slot, as `stages/llm/slot_cache.py` allocates them. `text`: a decoder's config.json."""
    heads = int(text["num_attention_heads"])
    head_dim = int(text.get("head_dim") or int(text["hidden_size"]) // heads)
    kv_heads = int(text.get("num_key_value_heads") or heads)
    per_token = int(text["num_hidden_layers"]) * kv_heads * head_dim * 2 * width
    return per_token * (slots.max_context_tokens + 1) * slots.num_slots


def step_bytes(text: Mapping[str, Any], slots: Slots, width: int) -> int:
    """The logits of every slot in float32, and of a prompt's chunk the hidden states and the inside of one feed-forward layer."""
    hidden = int(text.get("hidden_size", 0))
    inner = int(text.get("intermediate_size") or 4 * hidden)
    logits = slots.num_slots * int(text.get("vocab_size", 0)) * 4
    return logits + slots.prefill_chunk_tokens * (2 * hidden + 2 * inner) * width


def weight_bytes(files: Iterable[Path], dtype: str, left_out: re.Pattern[str] | None = None) -> int:
    """Of the tensors in safetensors files, loaded as `dtype`. `left_out`: a pattern of names."""
    total = 0
    for file in files:
        for name, tensor in _header(file).items():
            if name != "__metadata__" and not (left_out is not None and left_out.search(name)):
                total += math.prod(tensor["shape"]) * _BYTES.get(dtype, _STORED_BYTES.get(tensor["dtype"], 1))
    return total


def _weight_files(folder: Path, kind: str, loader: str) -> list[list[Path]]:
    """For each component of the part, the files that are read."""
    if loader == "diffusers":
        from stages.diffusion.checkpoint_parts import part_patterns

        folders = {path.parent for pattern in part_patterns(kind) for path in folder.glob(pattern)} - {folder}
        return [_chosen(component) for component in sorted(folders)]
    # Of a vision encoder's checkpoint only the smaller part is read, and which one its class knows.
    return [_chosen(folder)] if kind in ("llm", "embedder") else []


def _chosen(folder: Path) -> list[Path]:
    """What `from_pretrained` reads: the shards that the index names, or the one file without a variant's name."""
    indices = sorted(folder.glob("*.safetensors.index.json"), key=lambda path: len(path.name))
    if indices:
        named = set(_json(indices[0]).get("weight_map", {}).values())
        return [folder / name for name in sorted(named) if (folder / name).is_file()]
    files = sorted(folder.glob("*.safetensors"), key=lambda path: len(path.name))
    return files[:1]


def _header(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header: dict[str, Any] = json.loads(opened.read(min(length, _MAX_HEADER_BYTES)))
            return header
    except (OSError, ValueError, struct.error):
        return {}  # loading it will tell


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
