"""The vision encoder stage of a `transformers` vision-language checkpoint: its tower and projector, without its language
model.

Decides which images share a batch: of equal size where the model wants one tensor, any where it takes a list of patches.
What comes out is what the model's own `get_image_features` gives.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stages.checkpoints.checkpoint import Checkpoint, LoadOptions
from stages.contract.blob import Blob
from stages.contract.errors import ConfigurationError
from stages.contract.recipe import Inputs
from stages.device.arrays import as_array
from stages.device.torchvision_shim import ensure_torchvision
from stages.images.image import decoded
from stages.images.image_header import read_header
from stages.vision.images import compiled
from stages.vision.messages import EncodeImage, VisionFeatures
from stages.vision.vlm.parts import load_seeing_part
from stages.vision.vlm.placeholders import check_num_features

_SAMPLES = ((60, 40), (40, 60))
"""Sizes of the images that are encoded at load, width and height."""


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """`pixels` [1, 3, height, width] or, with a `grid` [1, 3] (time, height, width), patches [num_patches, values]."""

    pixels: Tensor
    grid: Tensor | None
    num_patches: int


class VlmEncoder:
    """A `OneShotStage[EncodeImage, PreparedImage, VisionFeatures]`. Its work unit is an image patch."""

    def __init__(self, part: Any, processor: Any, options: LoadOptions) -> None:
        self._part, self._processor, self._options = part.requires_grad_(False), processor, options
        self._patch: int = part.config.vision_config.patch_size
        self._dtype: torch.dtype = getattr(torch, options.dtype)
        self._features = compiled(part.model.get_image_features, options)
        sample = self._prepared(Image.new("RGB", _SAMPLES[0]))
        self._sample_patches, self._keeps_size = sample.num_patches, sample.grid is not None

    @classmethod
    def load(cls, checkpoint: Checkpoint, options: LoadOptions) -> "VlmEncoder":
        """Reads the seeing part's weights only. Raises `ConfigurationError`."""
        ensure_torchvision()
        from transformers import AutoProcessor

        try:
            processor = AutoProcessor.from_pretrained(str(checkpoint.folder), trust_remote_code=False)
            encoder = cls(load_seeing_part(checkpoint.folder, options), processor.image_processor, options)
            encoder._check_placeholders(processor)
        except Exception as error:  # a broken checkpoint fails in a dozen ways, and all of them are the configuration's
            raise ConfigurationError(f"{checkpoint.source} cannot be loaded as a vision encoder: {error}") from error
        return encoder

    def _check_placeholders(self, processor: Any) -> None:
        for width, height in _SAMPLES:
            blank = self._prepared(Image.new("RGB", (width, height)))
            features = self._encoded([blank], self._part.model.get_image_features)[0].features
            check_num_features(processor, height, width, len(features))

    @property
    def device(self) -> str:
        return self._options.device

    @property
    def result_type(self) -> type[VisionFeatures]:
        return VisionFeatures

    def check(self, payload: EncodeImage) -> None:
        """What is wrong with an image shows when it is read."""

    def weigh(self, payload: EncodeImage) -> float:
        """The processor's own count for the image's size; of models that bring every image to about one size, that of the
        sample that was encoded at load."""
        return float(self._expected_patches(payload.data))

    def _expected_patches(self, data: bytes | Blob) -> int:
        """On its caller's thread, so nothing is copied."""
        if not self._keeps_size:
            return self._sample_patches
        try:
            header = read_header(data.view if isinstance(data, Blob) else data)
            return int(self._processor.get_number_of_image_patches(header.height, header.width))
        except ValueError:  # whoever prepares it will say what is wrong with it
            return self._sample_patches

    def prepare(self, payload: EncodeImage, inputs: Inputs) -> PreparedImage:
        """Raises `InvalidRequest` or `TooLarge` for an image that can't be read."""
        with decoded(bytes(payload.data), max_pixels=payload.max_pixels, param="data") as image:
            return self._prepared(image)

    def _prepared(self, image: Image.Image) -> PreparedImage:
        found = self._processor(images=[image], return_tensors="pt")
        pixels, grid = found["pixel_values"], found.get("image_grid_thw")
        if grid is not None:
            return PreparedImage(pixels, grid, len(pixels))
        return PreparedImage(pixels, None, (pixels.shape[-1] // self._patch) * (pixels.shape[-2] // self._patch))

    def batch_key(self, item: PreparedImage) -> Hashable:
        return "patches" if item.grid is not None else tuple(item.pixels.shape)

    def cost(self, item: PreparedImage) -> float:
        """Image patches."""
        return float(item.num_patches)

    def run(self, batch: Sequence[PreparedImage]) -> Sequence[VisionFeatures]:
        return self._encoded(batch, self._features)

    def _encoded(self, batch: Sequence[PreparedImage], encode: Callable[..., Any]) -> Sequence[VisionFeatures]:
        pixels = torch.cat([item.pixels for item in batch]).to(self._options.device, self._dtype)
        grids = [item.grid for item in batch if item.grid is not None]
        arguments = {"image_grid_thw": torch.cat(grids).to(self._options.device)} if grids else {}
        with torch.inference_mode():
            features = encode(pixels, **arguments).pooler_output
        return [_result(one, item) for one, item in zip(features, batch, strict=True)]


def _result(features: Tensor, item: PreparedImage) -> VisionFeatures:
    return VisionFeatures(as_array(features), None if item.grid is None else np.ascontiguousarray(item.grid[0].numpy()))
