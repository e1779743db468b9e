"""What a kind of stage tells about itself before it is loaded: which files make it, what it will need, and how to load it.

One `StageKind` for a kind of stage and the loader that reads it; each folder of stages lists its own in a `kinds.py`, and
`stages/host/kinds/registry.py` looks them up. Knows none of them, and no torch: model libraries are imported when `load` is called.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from stages.checkpoints.checkpoint import Checkpoint, LoadOptions
from stages.checkpoints.memory_estimate import Need
from stages.checkpoints.part_files import PartFiles
from stages.contract.stage import IterativeStage, OneShotStage

Stage: TypeAlias = OneShotStage[Any, Any, Any] | IterativeStage[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """What one stage is loaded from. `files`: the part's own, in the checkpoint's folder. `options`: with a device and a dtype in
    place of "auto". `settings`: of the kind's own, as the configuration gives them."""

    stage: str
    checkpoint: Checkpoint
    files: Sequence[Path]
    options: LoadOptions
    projector: Checkpoint | None = None
    settings: object | None = None


def _nothing(part: Part) -> Sequence[Need]:
    return ()


def _as_asked(checkpoint: Checkpoint, dtype: str) -> str:
    return dtype


@dataclass(frozen=True, slots=True)
class StageKind:
    """`name`: as the configuration spells it. Functions are a module's own, as specs cross processes by name only.

    `load` raises `ConfigurationError` where source and loader don't fit. `needs`: of memory, beside weights. `dtype`: what the part
    is computed in where it can't be in the one that is asked for. `packs_layers`: on a CPU its linear layers are
    `stages/device/packed_linear.py`. `sizes_vary`: one step computes with so many tokens, the next with others. `unpacks`: writes to
    this machine's disk what loading would write there first (None: nothing).
    """

    name: str
    loader: str
    files: PartFiles
    load: Callable[[Part], Stage]
    needs: Callable[[Part], Sequence[Need]] = _nothing
    dtype: Callable[[Checkpoint, str], str] = _as_asked
    packs_layers: bool = False
    sizes_vary: bool = False
    unpacks: Callable[[Part], None] | None = None
