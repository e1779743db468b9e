"""Positions of a prompt's tokens in models whose images take positions of their own (M-RoPE: time, height, width).

The model's own `get_rope_index` decides them; it reads the configuration, no weights, and changes nothing, so it may be called on
any thread.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stages.llm.model.slot_table import SlotImage
from stages.llm.pages.kv_page import Grid


class ImagePositions:
    """For one model."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self._merged = body.config.vision_config.spatial_merge_size**2

    @classmethod
    def of(cls, model: Any) -> "ImagePositions | None":
        """None for a model that numbers all tokens in one row."""
        body = getattr(model, "model", None)
        return cls(body) if hasattr(body, "get_rope_index") else None

    def num_tokens(self, grid: Grid) -> int:
        """How many tokens an image of this grid makes."""
        return math.prod(grid) // int(self._merged)

    def of_prompt(self, num_tokens: int, images: Sequence[SlotImage]) -> tuple[Tensor, int]:
        """(positions [3, num_tokens], what to add to the index of a token after the prompt). Every image's grid is known."""
        kinds = torch.zeros(1, num_tokens, dtype=torch.int)
        for image in images:
            kinds[0, image.offset : image.end] = 1
        grids = torch.tensor([image.grid for image in images], dtype=torch.long)
        positions, deltas = self._body.get_rope_index(
            torch.zeros(1, num_tokens, dtype=torch.long), kinds, image_grid_thw=grids
        )
        return positions[:, 0], int(deltas[0, 0])
