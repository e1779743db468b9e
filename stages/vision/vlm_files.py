"""Which tensors of a `transformers` vision-language checkpoint see, and which speak. Decides by their names in the files."""

from collections.abc import Mapping

from stages.vision.shards import is_of
from stages.vision.vlm_parts import VLM_PARTS


def holds_seeing(config: Mapping[str, object], tensor: str) -> bool:
    """Whether the vision encoder's stage reads it."""
    parts = VLM_PARTS.get(str(config.get("model_type")))
    return parts is None or is_of(tensor, parts.seeing)


def holds_speaking(config: Mapping[str, object], tensor: str) -> bool:
    """Whether the language model's stage reads it: all that doesn't see."""
    parts = VLM_PARTS.get(str(config.get("model_type")))
    return parts is None or not is_of(tensor, parts.seeing)
