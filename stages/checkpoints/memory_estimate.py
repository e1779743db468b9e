"""What a stage will need of its device's memory, told before it is loaded from the settings and headers of its own files.

Decides how weights count (in the dtype that they are loaded in), and when and in which words a stage is refused. What a kind of
stage needs beside its weights, that kind tells. The largest batch does not count: it is lowered where it doesn't fit
(`memory_bound.py`). Each figure is a lower bound, so what is refused could not have run; what is not refused may still run out.
Reads JSON and the headers of safetensors files, no weights; knows no torch.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.checkpoints.part_files import Holds
from stages.checkpoints.safetensors_headers import stored_tensors
from stages.contract.errors import ConfigurationError

SURE = 1.1  # what is free may be a little more by the time that it is needed
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
_STORED_BYTES = {"F64": 8, "F32": 4, "I64": 8, "I32": 4, "BF16": 2, "F16": 2, "I16": 2}


@dataclass(frozen=True, slots=True)
class Need:
    """`what`: in the words of a refusal. `settings`: those that lower it."""

    what: str
    num_bytes: int
    settings: tuple[str, ...] = ()


def total(needs: Iterable[Need]) -> int:
    return sum(need.num_bytes for need in needs)


def weights_need(folder: Path, files: Iterable[Path], dtype: str, holds: Holds | None) -> Need:
    """`files`: the part's own, in `folder`; one file may hold several parts, so only those tensors count that the part `holds`. What
    the files don't tell counts as nothing."""
    config = read_config(folder)
    num_bytes = sum(
        math.prod(tensor.shape) * WIDTHS.get(dtype, _STORED_BYTES.get(tensor.dtype, 1))
        for tensor in stored_tensors(files)
        if holds is None or holds(config, tensor.name)
    )
    return Need("weights", num_bytes, ("dtype",))


def refuse_if_too_large(stage: str, needs: Iterable[Need], free: int | None, device: str) -> None:
    """Raises `ConfigurationError` with the figures where the device can't hold it. `free`: None where nobody knows."""
    wanted = [need for need in needs if need.num_bytes]
    if free is None or total(wanted) <= SURE * free:
        return
    figures = ", ".join(f"{need.what} {_size(need.num_bytes)}" for need in wanted)
    settings = dict.fromkeys(setting for need in reversed(wanted) for setting in need.settings)
    raise ConfigurationError(
        f"models.*.{stage.rpartition('.')[2]}: {stage} needs at least {_size(total(wanted))} of memory ({figures}), and "
        f"{device} has {_size(free)} free; lower {', '.join(settings)}, or give it a larger device"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json; nothing where it can't be read."""
    try:
        values = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
