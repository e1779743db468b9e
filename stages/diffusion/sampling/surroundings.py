"""What of a painting is not painted: the latents around a mask, which stay those of a given image (inpainting).

Decides what stands there between two model calls: the image, with as much of the row's own noise as the next call expects. So any model
paints into it. As `StableDiffusionInpaintPipeline` of diffusers does for models without inputs for a mask. Knows no model and no image.
"""

from dataclasses import dataclass
from typing import Self

import torch

from stages.diffusion.sampling.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`image`, `noise`: [1, channels, height, width] float32; `mask`: [1, 1, height, width], 1 where it is painted, else 0."""

    image: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor

    def on(self, device: torch.device) -> Self:
        return type(self)(self.image.to(device), self.noise.to(device), self.mask.to(device))

    def around(self, latents: torch.Tensor, schedule: Schedule, call: int) -> torch.Tensor:
        """The latents before that model call, or after the last one. `schedule`: the row's, which has come so far."""
        return (1 - self.mask) * schedule.add_noise(self.image, self.noise, call) + self.mask * latents
