"""Positions of a prompt's tokens in models whose pictures take positions of their own (M-RoPE: time, height, width).

The model's own `get_rope_index` decides them; it reads the configuration, no weights.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.llm.messages import ImageSpan


class ImagePositions:
    """For one model. Pictures bring "grid_thw" [3]: patches in time, height and width, before merging."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self._merged = body.config.vision_config.spatial_merge_size**2

    @classmethod
    def of(cls, model: Any) -> "ImagePositions | None":
        """None for a model that numbers all tokens in one row."""
        body = getattr(model, "model", None)
        return cls(body) if hasattr(body, "get_rope_index") else None

    def num_tokens(self, image: ImageSpan) -> int | None:
        """How many tokens the picture's grid makes; None where it brings no grid."""
        grid = image.value.get("grid_thw")
        return None if grid is None or np.shape(grid) != (3,) else int(np.prod(grid)) // self._merged

    def of_prompt(self, num_tokens: int, images: Sequence[ImageSpan]) -> tuple[Tensor, int]:
        """(positions [3, num_tokens], what to add to the index of a token after the prompt)."""
        kinds = torch.zeros(1, num_tokens, dtype=torch.int)
        for image in images:
            kinds[0, image.offset : image.offset + image.length] = 1
        grids = torch.tensor(np.stack([image.value["grid_thw"] for image in images]), dtype=torch.long)
        positions, deltas = self._body.get_rope_index(
            torch.zeros(1, num_tokens, dtype=torch.long), kinds, image_grid_thw=grids
        )
        return positions[:, 0], int(deltas[0, 0])
