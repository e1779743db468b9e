"""What of a `transformers` vision-language checkpoint sees, and what speaks: modules of the model, and tensors by their names in the files.

Knows no torch: processes that load no weights ask, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from stages.vision.vlm.shards import is_of


@dataclass(frozen=True, slots=True)
class PartModules:
    """Attributes of the model's body (`model.model`) that make each part; the head (`lm_head`) speaks."""

    seeing: tuple[str, ...]
    speaking: tuple[str, ...] = ("language_model",)


VLM_PARTS = {
    "llava": PartModules(seeing=("vision_tower", "multi_modal_projector")),
    "qwen2_5_vl": PartModules(seeing=("visual",)),
}
"""By `model_type`."""


def holds_seeing(config: Mapping[str, object], tensor: str) -> bool:
    """Whether the vision encoder's stage reads it."""
    parts = VLM_PARTS.get(str(config.get("model_type")))
    return parts is None or is_of(tensor, parts.seeing)


def holds_speaking(config: Mapping[str, object], tensor: str) -> bool:
    """Whether the language model's stage reads it: all that doesn't see."""
    parts = VLM_PARTS.get(str(config.get("model_type")))
    return parts is None or not is_of(tensor, parts.seeing)
