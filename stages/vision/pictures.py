"""From encoded pictures to a model's input, on a pool thread; and from its output to results. Knows no model."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.checkpoint import LoadOptions
from stages.picture import decode
from stages.stage import EncodeImage


def preprocessed(payload: EncodeImage, preprocess: Callable[[Any], Tensor]) -> Tensor:
    """The picture as the model wants it. Raises `InvalidRequest` or `TooLarge` for a picture that can't be read."""
    return preprocess(decode(payload.data, max_pixels=payload.max_pixels, param="messages"))


def compiled(compute: Callable[..., Any], options: LoadOptions) -> Callable[..., Any]:
    """`compute`, compiled where the options say so (minutes at the first batch, faster ever after)."""
    return torch.compile(compute, dynamic=True) if options.compile else compute


def as_array(features: Tensor) -> NDArray[Any]:
    """On the CPU, in a type that numpy has: bfloat16 becomes float32."""
    features = features.detach().cpu()
    return np.ascontiguousarray((features.float() if features.dtype == torch.bfloat16 else features).numpy())
