"""Which part of an image is to be painted: where a mask of the image's size is transparent, as OpenAI has it.

Decides what transparent means, and that a mask is scaled and cut as its image is (`fit`), without half-painted pixels. Knows no model.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract.errors import InvalidRequest
from stages.images.image import decoded_alpha, fit

OPAQUE_FROM = 128
"""Of 255: what is less opaque is to be painted."""


def painted(data: bytes, width: int, height: int, *, max_pixels: int, param: str) -> NDArray[np.bool_]:
    """[height, width]: whether a pixel is to be painted. Raises `InvalidRequest` for a file that is no image, for one without
    transparency, and where nothing of it is transparent; else as `decoded` does."""
    with decoded_alpha(data, max_pixels=max_pixels, param=param) as alpha:
        is_painted: NDArray[Any] = fit(alpha, width, height, sharply=True) < OPAQUE_FROM
    if not is_painted.any():
        raise InvalidRequest(
            f"{param}: nothing of it is transparent; what is to be painted is where the mask's alpha is 0", param=param
        )
    return is_painted


def by_cells(is_painted: NDArray[np.bool_], factor: int) -> NDArray[np.float32]:
    """[1, height, width] of squares of `factor` pixels a side: 1 where any pixel is painted, else 0. Both sides are multiples of it."""
    height, width = is_painted.shape
    cells = np.any(is_painted.reshape(height // factor, factor, width // factor, factor), axis=(1, 3))
    return np.asarray(cells[None], dtype=np.float32)
