"""How much work embedding is, known before it starts from an open_clip folder's settings: text tokens, or image patches. No torch."""

import json
from dataclasses import dataclass
from typing import Any, Self

from stages.checkpoints.checkpoint import Checkpoint
from stages.contract.errors import ConfigurationError
from stages.contract.work import Work

CONFIG_FILE = "open_clip_config.json"
_CONTEXT, _SIDE = 77, 224  # open_clip's own defaults


@dataclass(frozen=True, slots=True)
class EmbeddingWork:
    """Of a text, which is computed at the model's full context, and of an image. Every one of a kind is as much."""

    text: Work
    image: Work

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> Self:
        """Raises `ConfigurationError`."""
        try:
            model = json.loads((checkpoint.folder / CONFIG_FILE).read_text())["model_cfg"]
        except (OSError, ValueError, KeyError) as error:
            raise ConfigurationError(f"{checkpoint.source}: {CONFIG_FILE} cannot be read: {error}") from error
        context = model.get("text_cfg", {}).get("context_length", _CONTEXT)
        return cls(Work(float(context)), Work(float(_num_patches(model.get("vision_cfg", {})))))


def _num_patches(vision: dict[str, Any]) -> int:
    """1 for a tower that has none: a convolutional one, or one of timm's, which doesn't tell."""
    patch = vision.get("patch_size")
    if not patch or vision.get("timm_model_name"):
        return 1
    height, width = _pair(vision.get("image_size", _SIDE))
    patch_height, patch_width = _pair(patch)
    return (height // patch_height) * (width // patch_width)


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[1])) if isinstance(value, list) else (int(value), int(value))
