"""A part of a vision-language checkpoint, from the shards that hold it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.checkpoints.checkpoint import Checkpoint, LoadOptions, Source
from stages.checkpoints.part_files import PartFiles
from stages.contract.errors import ConfigurationError
from stages.engine.scheduling.scheduler import BatchLimits, QueueLimits
from stages.host.kinds.registry import StageSpec, part_files
from stages.vision.vlm.parts import load_seeing_part, load_speaking_part
from stages.vision.vlm.shards import is_of
from tests.stages.llm.tiny_vlms import save_llava, save_qwen2_5_vl

pytestmark = pytest.mark.models


def sharded(save: Callable[[Path], Path], folder: Path) -> Path:
    from transformers import AutoModelForImageTextToText

    model: Any = AutoModelForImageTextToText.from_pretrained(save(folder))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    return folder


def part_of(kind: str) -> PartFiles:
    spec = StageSpec("s", kind, "transformers", Source(folder="x"), LoadOptions(), BatchLimits(), QueueLimits())
    return part_files(spec)


def shards(folder: Path, kind: str) -> set[Path]:
    files = Checkpoint(Source(folder=str(folder)), folder).files(part_of(kind))
    return {path for path in files if path.suffix == ".safetensors"}


@pytest.mark.parametrize("save", [save_llava, save_qwen2_5_vl])
def test_each_part_loads_from_its_own_shards_and_is_the_same(save: Callable[[Path], Path], tmp_path: Path) -> None:
    whole, folder = save(tmp_path / "whole"), sharded(save, tmp_path / "sharded")
    everything = set(folder.glob("*.safetensors"))
    seeing, speaking = shards(folder, "vision_encoder"), shards(folder, "llm")
    assert seeing | speaking == everything
    assert seeing < everything
    assert speaking < everything
    kept = {path: path.read_bytes() for path in everything}
    for load, own in ((load_seeing_part, seeing), (load_speaking_part, speaking)):
        for path in everything - own:
            path.unlink()
        part, wanted = load(folder, LoadOptions()).state_dict(), load(whole, LoadOptions()).state_dict()
        for path, data in kept.items():
            path.write_bytes(data)
        assert part.keys() == wanted.keys()
        assert all(torch.equal(part[name], wanted[name]) for name in wanted)


def test_a_shard_of_the_part_that_is_missing_is_missed(tmp_path: Path) -> None:
    folder = sharded(save_llava, tmp_path)
    min(shards(folder, "vision_encoder")).unlink()
    with pytest.raises(OSError, match=r"\.safetensors"):
        load_seeing_part(folder, LoadOptions())


def test_a_part_without_any_weights_is_refused(tmp_path: Path) -> None:
    folder = save_llava(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match=r"no weights that could be loaded: none of model\.safetensors"):
        shards(folder, "llm")


@pytest.mark.parametrize(
    ("tensor", "sees"),
    [
        ("model.vision_tower.blocks.0.weight", True),
        ("vision_tower.blocks.0.weight", True),
        ("model.multi_modal_projector.weight", True),
        ("language_model.model.layers.0.weight", False),
        ("lm_head.weight", False),
        ("model.language_model.vision_towers.weight", False),
    ],
)
def test_a_tensor_belongs_to_a_module_wherever_that_stands(tensor: str, sees: bool) -> None:
    assert is_of(tensor, ("vision_tower", "multi_modal_projector")) == sees
