"""One request inside the denoiser: its latents, where it stands on its schedule, and its own source of randomness."""

from dataclasses import dataclass

import torch

from stages.diffusion.families.family import Condition
from stages.diffusion.sampling.schedule import Schedule


@dataclass(slots=True)
class DenoiseRow:
    """`latents`: [1, channels, height, width] float32 on the model's device. `call`: model calls made so far. `preview_calls`:
    after which of them an estimate is wanted. `unconditional`: None without classifier-free guidance."""

    latents: torch.Tensor
    schedule: Schedule
    generator: torch.Generator
    condition: Condition
    unconditional: Condition | None
    guidance_scale: float
    preview_calls: frozenset[int]
    call: int = 0

    @property
    def guided(self) -> bool:
        return self.unconditional is not None

    @property
    def num_model_rows(self) -> int:
        return 2 if self.guided else 1

    @property
    def done(self) -> bool:
        return self.call >= self.schedule.num_calls

    def advance(self, output: torch.Tensor) -> torch.Tensor | None:
        """Takes the model's output [1, channels, height, width] for this call; gives an estimate where one is wanted."""
        wanted = self.call + 1 in self.preview_calls
        estimate = self.schedule.estimate(output, self.call, self.latents) if wanted else None
        self.latents = self.schedule.step(output, self.call, self.latents, self.generator)
        self.call += 1
        return estimate

    def release(self) -> None:
        """Lets go of the device's memory."""
        self.latents = self.latents.new_empty(0)
        self.condition, self.unconditional = {}, None
        self.schedule.release()
