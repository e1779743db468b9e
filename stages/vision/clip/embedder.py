"""The CLIP embedder stage: texts and images into one space, as vectors of unit length.

Decides that texts share batches with texts and images with images of their size, and that a text over the model's
context is refused, not cut. Knows no HTTP.
"""

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.checkpoints.checkpoint import Checkpoint, LoadOptions
from stages.contract.errors import ConfigurationError, InvalidRequest
from stages.contract.recipe import Inputs
from stages.device.arrays import as_array
from stages.device.torchvision_shim import ensure_torchvision
from stages.images.image import decoded
from stages.vision.clip.texts import ClipTexts
from stages.vision.clip.tower import CONFIG_FILE, LOCAL_PREFIX
from stages.vision.images import compiled
from stages.vision.messages import Embedding, EmbedInput

_TEXT = "text"


@dataclass(frozen=True, slots=True)
class PreparedInput:
    """`pixels` [3, height, width] float32, or `token_ids` [context] int64. `num_tokens`: text tokens or image patches."""

    pixels: Tensor | None
    token_ids: Tensor | None
    num_tokens: int


class ClipEmbedder:
    """A `OneShotStage[EmbedInput, PreparedInput, Embedding]`. Its work unit is a text token, or an image patch."""

    def __init__(self, model: Any, transform: Any, tokenizer: Any, options: LoadOptions) -> None:
        self._options = options
        self._dtype = getattr(torch, options.dtype)
        self._model = model.to(options.device, self._dtype).eval().requires_grad_(False)
        self._encode_image = compiled(self._model.encode_image, options)
        self._encode_text = compiled(self._model.encode_text, options)
        self._context: int = model.context_length
        self._transform, self._texts = transform, ClipTexts.of(tokenizer, self._context)
        self._num_patches = _num_patches(model.visual)

    @classmethod
    def load(cls, checkpoint: Checkpoint, options: LoadOptions) -> "ClipEmbedder":
        """Reads both towers of an open_clip folder (a hub source is one, too). Raises `ConfigurationError`."""
        ensure_torchvision()
        import open_clip

        name = f"{LOCAL_PREFIX}{checkpoint.folder}"
        try:
            model, _, transform = open_clip.create_model_and_transforms(name, weights_only=True)
            return cls(model, transform, _load_tokenizer(checkpoint.folder), options)
        except Exception as error:  # a broken checkpoint fails in a dozen ways, and all of them are the configuration's
            raise ConfigurationError(f"{checkpoint.source} cannot be loaded as an open_clip model: {error}") from error

    @property
    def device(self) -> str:
        return self._options.device

    @property
    def result_type(self) -> type[Embedding]:
        return Embedding

    def check(self, payload: EmbedInput) -> None:
        """Raises `InvalidRequest` for an input that is neither a text nor an image, or both."""
        if (payload.text is None) == (payload.image is None):
            raise InvalidRequest("an input is a text or an image, and this one is neither or both", param="text")

    def weigh(self, payload: EmbedInput) -> float:
        """Exact."""
        return float(self._context if payload.image is None else self._num_patches)

    def prepare(self, payload: EmbedInput, inputs: Inputs) -> PreparedInput:
        """Raises `InvalidRequest` for what can't be read, or is longer than the model reads."""
        if payload.image is not None:
            with decoded(bytes(payload.image), max_pixels=payload.max_pixels, param="image") as image:
                return PreparedInput(self._transform(image), None, self._num_patches)
        token_ids, num_tokens = self._texts.tokenize(payload.text or "")
        return PreparedInput(None, torch.from_numpy(token_ids), num_tokens)

    def batch_key(self, item: PreparedInput) -> Hashable:
        return _TEXT if item.pixels is None else tuple(item.pixels.shape)

    def cost(self, item: PreparedInput) -> float:
        """Text tokens (a text is computed at the model's full context) or image patches."""
        return float(self._context if item.pixels is None else self._num_patches)

    def run(self, batch: Sequence[PreparedInput]) -> Sequence[Embedding]:
        with torch.inference_mode():
            vectors = torch.nn.functional.normalize(self._encoded(batch).float(), dim=-1)
        return [Embedding(as_array(vector), np.asarray(item.num_tokens)) for vector, item in zip(vectors, batch, strict=True)]

    def _encoded(self, batch: Sequence[PreparedInput]) -> Tensor:
        pixels = [item.pixels for item in batch if item.pixels is not None]
        if pixels:
            found: Tensor = self._encode_image(torch.stack(pixels).to(self._options.device, self._dtype))
            return found
        token_ids = torch.stack([item.token_ids for item in batch if item.token_ids is not None])
        encoded: Tensor = self._encode_text(token_ids.to(self._options.device))
        return encoded


def _load_tokenizer(folder: Path) -> Any:
    """The library's. What it hands on to transformers is up to the checkpoint, which could ask there for code of its own."""
    import open_clip

    text = json.loads((folder / CONFIG_FILE).read_text())["model_cfg"]["text_cfg"]
    overruled = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}  # open_clip's own takes no such argument
    return open_clip.get_tokenizer(f"{LOCAL_PREFIX}{folder}", **overruled)


def _num_patches(visual: Any) -> int:
    """Patches of one image; 1 for a tower that has none (a convolutional one)."""
    grid = getattr(visual, "grid_size", None)
    return int(np.prod(grid)) if grid is not None else 1
