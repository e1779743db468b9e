"""One request inside the denoiser: its latents, where it stands on its schedule, and its own source of randomness.

Decides what is a row's own: everything that a step changes. What was prepared stays as it is, so that a row that had to make way can be
made again of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import torch

from stages.diffusion.families.family import Condition
from stages.diffusion.sampling.schedule import Schedule
from stages.diffusion.sampling.surroundings import Surroundings
from stages.diffusion.step_state import StepState


@dataclass(frozen=True, slots=True)
class Keeping:
    """What of a request is remembered. `names`: of its states, by the model call after which each is taken; `salt`: whose it is."""

    names: Mapping[int, str] = field(default_factory=dict)
    salt: str = field(default="", repr=False)


NOTHING_KEPT = Keeping()


@dataclass(frozen=True, slots=True)
class PreparedDenoise:
    """A request before its first step, all of it on the host: what waits holds no memory of the device. `latents`: [1, channels,
    height, width] float32, noised as the first call expects; `generator_state`: after the draws for them. `preview_calls`: after
    which model calls an estimate is wanted. `unconditional`: None without classifier-free guidance. `begins_at`: the state that it
    goes on from (None: from the beginning); after the last call, nothing of the rest is needed. `trunk`: what the first `trunk_calls`
    are conditioned on in place of `condition`, shaped like it (None: those lie behind, or there are none). `surroundings`: what is not
    painted (None: all is)."""

    latents: torch.Tensor
    schedule: Schedule
    generator_state: torch.Tensor
    condition: Condition
    unconditional: Condition | None
    guidance_scale: float
    preview_calls: frozenset[int]
    keeping: Keeping = NOTHING_KEPT
    begins_at: StepState | None = None
    trunk: Condition | None = None
    trunk_calls: int = 0
    surroundings: Surroundings | None = None

    @property
    def num_model_rows(self) -> int:
        return 1 if self.unconditional is None else 2

    @property
    def done(self) -> bool:
        return self.begins_at is not None and self.begins_at.call >= self.schedule.num_calls


@dataclass(slots=True)
class DenoiseRow:
    """As `PreparedDenoise`, tensors on the model's device. `call`: model calls made so far."""

    latents: torch.Tensor
    schedule: Schedule
    generator: torch.Generator
    condition: Condition
    unconditional: Condition | None
    guidance_scale: float
    preview_calls: frozenset[int]
    keeping: Keeping
    trunk: Condition | None
    trunk_calls: int
    surroundings: Surroundings | None
    call: int = 0

    @classmethod
    def of(cls, prepared: PreparedDenoise, device: torch.device) -> Self:
        generator = torch.Generator("cpu")
        generator.set_state(prepared.generator_state)
        unconditional = prepared.unconditional
        return cls(
            latents=prepared.latents.to(device, copy=True),
            schedule=prepared.schedule.copy(),
            generator=generator,
            condition=_on(device, prepared.condition),
            unconditional=None if unconditional is None else _on(device, unconditional),
            guidance_scale=prepared.guidance_scale,
            preview_calls=prepared.preview_calls,
            keeping=prepared.keeping,
            trunk=None if prepared.trunk is None else _on(device, prepared.trunk),
            trunk_calls=prepared.trunk_calls,
            surroundings=None if prepared.surroundings is None else prepared.surroundings.on(device),
        )

    @property
    def followed(self) -> Condition:
        """What the next call is conditioned on."""
        return self.trunk if self.trunk is not None and self.call < self.trunk_calls else self.condition

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
        if self.surroundings is not None:
            self.latents = self.surroundings.around(self.latents, self.schedule, self.call)
        return estimate

    def release(self) -> None:
        """Lets go of the device's memory."""
        self.latents = self.latents.new_empty(0)
        self.condition, self.unconditional, self.trunk, self.surroundings = {}, None, None, None
        self.schedule.release()


def _on(device: torch.device, condition: Condition) -> Condition:
    return {name: value.to(device) for name, value in condition.items()}
