"""How fast the bare U-Net is at each number of model rows, and what batching it can gain at most: the limit of any server.

The measuring knows diffusers; `Curve` is plain arithmetic.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.loads.wishes import Wish

ROWS = (1, 2, 4, 8, 16, 32)
PROMPT_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Curve:
    """Model rows of a forward pass -> seconds. Has 1 and 2 rows at least."""

    seconds: Mapping[int, float]

    @property
    def best_rows_per_s(self) -> float:
        return max(rows / seconds for rows, seconds in self.seconds.items())

    def alone_s(self, wishes: Sequence[Wish]) -> float:
        """One wish after the other."""
        return sum(wish.steps * self.seconds[wish.num_model_rows] for wish in wishes)

    def together_s(self, wishes: Sequence[Wish]) -> float:
        """Every model row computed at the best speed there is."""
        return sum(wish.steps * wish.num_model_rows for wish in wishes) / self.best_rows_per_s

    def allowed(self, wishes: Sequence[Wish]) -> float:
        """How many times faster than one at a time these wishes can be painted, if nothing but forward passes took time."""
        return self.alone_s(wishes) / self.together_s(wishes)

    def at(self, rows: float) -> float:
        """Seconds at a number of rows between those measured (linear; beyond them, at the last one's speed)."""
        sizes = sorted(self.seconds)
        if rows >= sizes[-1]:
            return self.seconds[sizes[-1]] * rows / sizes[-1]
        above = next(size for size in sizes if size >= rows)
        below = max((size for size in sizes if size <= rows), default=above)
        share = (rows - below) / (above - below) if above > below else 0.0
        return self.seconds[below] + share * (self.seconds[above] - self.seconds[below])


def measure(painter: Path, *, torch_threads: int, repeats: int) -> Curve:
    """Medians in float32; the sizes take turns, so that a slow moment of the machine falls on all of them."""
    import torch

    from stages.device.torchvision_shim import ensure_torchvision

    ensure_torchvision()
    from diffusers import UNet2DConditionModel

    before = torch.get_num_threads()
    torch.set_num_threads(torch_threads)
    unet = UNet2DConditionModel.from_pretrained(painter / "unet", dtype=torch.float32).eval()
    width = int(unet.config.cross_attention_dim)
    size, channels = int(unet.config.sample_size), int(unet.config.in_channels)
    found: dict[int, list[float]] = {rows: [] for rows in ROWS}
    with torch.inference_mode():
        for turn in range(repeats + 1):
            for rows in ROWS:
                latents, prompt = torch.randn(rows, channels, size, size), torch.randn(rows, PROMPT_TOKENS, width)
                began = time.monotonic()
                unet(latents, torch.full((rows,), 500.0), prompt)
                if turn:  # the first is to warm up
                    found[rows].append(time.monotonic() - began)
    torch.set_num_threads(before)
    return Curve({rows: statistics.median(seconds) for rows, seconds in found.items()})
