"""From encoded images to a model's input, on a pool thread. Knows no model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stages.checkpoints.checkpoint import LoadOptions
from stages.images.image import decoded
from stages.vision.messages import EncodeImage


def preprocessed(payload: EncodeImage, preprocess: Callable[[Any], Tensor]) -> Tensor:
    """The image as the model wants it. Raises `InvalidRequest` or `TooLarge` for an image that can't be read."""
    with decoded(bytes(payload.data), max_pixels=payload.max_pixels, param="data") as image:
        return preprocess(image)


def compiled(compute: Callable[..., Any], options: LoadOptions) -> Callable[..., Any]:
    """`compute`, compiled where the options say so (minutes at the first batch, faster ever after)."""
    return torch.compile(compute, dynamic=True) if options.compile else compute
