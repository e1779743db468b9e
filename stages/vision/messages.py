"""What vision stages are sent and what they make. Torch-free: pipelines build and read these. Decides nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from stages.contract.blob import Blob
from stages.contract.message import message
from stages.contract.recipe import Recipe
from stages.contract.result import Result


@message
@dataclass(frozen=True, slots=True)
class VisionFeatures(Result):
    """An image as an LLM sees it. `features`: [tokens, width] in the model's dtype, ready to stand in its input embeddings.
    `grid_thw`: [3] int64, patches in time, height and width before merging, of models whose positions depend on it."""

    features: NDArray[Any]
    grid_thw: NDArray[np.int64] | None = None


@message
@dataclass(frozen=True, slots=True)
class EncodeImage:
    """For a vision encoder, which makes `VisionFeatures`: an encoded image (PNG, JPEG, WebP, AVIF, GIF, BMP), as
    `stages/images/image.py` accepts it."""

    makes: ClassVar[type[Result]] = VisionFeatures
    data: bytes | Blob
    max_pixels: int

    def needs(self) -> Sequence[Recipe[Any]]:
        return ()


@message
@dataclass(frozen=True, slots=True)
class Embedding(Result):
    """`embedding`: [width] float32, of unit length. `num_tokens`: [] int64, of a text; 0 of an image."""

    embedding: NDArray[np.float32]
    num_tokens: NDArray[np.int64]


@message
@dataclass(frozen=True, slots=True)
class EmbedInput:
    """For a CLIP embedder, which makes an `Embedding`: exactly one of text and image (encoded image)."""

    makes: ClassVar[type[Result]] = Embedding
    text: str | None = None
    image: bytes | Blob | None = None
    max_pixels: int = 0

    def needs(self) -> Sequence[Recipe[Any]]:
        return ()
