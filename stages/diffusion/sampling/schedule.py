"""One request's walk from noise to image: a diffusers scheduler of its own, and what its `step` needs around it.

Decides how a scheduler is built and called, so that the result is that of the library's own pipeline. diffusers schedulers
hold a scalar step index and past outputs: one object per request, never shared. Knows no model. The noise levels stay on
the CPU, where reading them doesn't make the host wait for the device.
"""

import inspect
from collections.abc import Mapping
from copy import copy, deepcopy
from typing import Any, Self

import numpy as np
import torch

from stages.contract.errors import InvalidRequest, StageFailed
from stages.diffusion.checkpoint.components import diffusers_class
from stages.diffusion.sampling.samplers import LatentScale, Sampler, SamplerMenu, Timing

_SETTINGS = "_internal_dict"  # diffusers' `config`; copying it takes longer than all the rest


class Schedule:
    """`num_calls`: model calls from here to the image (for second-order samplers nearly two a step)."""

    def __init__(self, scheduler: Any, scale: LatentScale, first_call: int = 0, *, fresh: Any = None) -> None:
        """`fresh`: a scheduler just like it that nobody steps."""
        self.scheduler = scheduler
        self._fresh = fresh
        self._latent_scale = scale
        self._first = first_call
        self._timesteps = scheduler.timesteps[first_call:].unbind()
        self._values = [float(timestep) for timestep in self._timesteps]
        self._scales_input = hasattr(scheduler, "scale_model_input")
        self._takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first_call)

    def copy(self) -> Self:
        """One to be walked, of one that never is."""
        return type(self)(_copy_of(self.scheduler), self._latent_scale, self._first, fresh=self.scheduler)

    def memory(self) -> Mapping[str, object]:
        """Whatever a copy's scheduler holds that a fresh one does not, by attribute."""
        fresh = vars(self._fresh)
        return {
            name: value for name, value in vars(self.scheduler).items() if name not in fresh or not _same(value, fresh[name])
        }

    def remember(self, memory: Mapping[str, object]) -> None:
        """What another copy's `memory` gave. Raises `StageFailed` for what a scheduler doesn't remember."""
        for name, value in memory.items():
            if not self.may_remember(name):
                raise StageFailed(f"this state is not a denoiser's: {name!r} is nothing that a scheduler remembers")
            setattr(self.scheduler, name, value)

    def may_remember(self, name: str) -> bool:
        """Whether its scheduler might have an attribute of that name: not where it is a method."""
        return name in vars(self.scheduler) or not hasattr(type(self.scheduler), name)

    @property
    def num_calls(self) -> int:
        return len(self._values)

    @property
    def initial_scale(self) -> float:
        """What unit noise is multiplied by before the first call."""
        return float(getattr(self.scheduler, "init_noise_sigma", 1.0))

    def timestep(self, call: int) -> float:
        return self._values[call]

    def model_input(self, latents: torch.Tensor, call: int) -> torch.Tensor:
        if not self._scales_input:
            return latents
        scaled: torch.Tensor = self.scheduler.scale_model_input(latents, self._timesteps[call])
        return scaled

    def step(self, output: torch.Tensor, call: int, latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The latents after model call `call`. Calls must come in order, each once."""
        extra = {"generator": generator} if self._takes_generator else {}
        result: torch.Tensor = self.scheduler.step(output, self._timesteps[call], latents, **extra, return_dict=False)[0]
        return result

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, call: int = 0) -> torch.Tensor:
        """Latents of an image, noised as much as that call expects; after the last call not at all. Of a schedule that is walked, the next
        call. On one device."""
        if call >= self.num_calls:
            return latents
        timestep = self.scheduler.timesteps[self._first + call : self._first + call + 1]
        if hasattr(self.scheduler, "add_noise"):
            added: torch.Tensor = self.scheduler.add_noise(latents, noise, timestep)
            return added
        scaled: torch.Tensor = self.scheduler.scale_noise(latents, timestep, noise)
        return scaled

    def estimate(self, output: torch.Tensor, call: int, latents: torch.Tensor) -> torch.Tensor:
        """The finished latents as the model sees them at this call (its x0 prediction). Changes nothing."""
        alpha, sigma = self.noise_level(call)
        match self._prediction_type():
            case "epsilon":
                return (latents - sigma * output) / alpha
            case "sample":
                return output
            case "v_prediction":
                norm = (alpha**2 + sigma**2) ** 0.5
                return (alpha / norm * latents - sigma * output) / norm
            case _:
                return latents - sigma * output

    def release(self) -> None:
        self.scheduler = self._fresh = None

    def _prediction_type(self) -> str:
        return str(getattr(self.scheduler.config, "prediction_type", "flow_prediction"))

    def noise_level(self, call: int) -> tuple[float, float]:
        """(alpha, sigma) of latents = alpha * image + sigma * noise before this call."""
        if not hasattr(self.scheduler, "sigmas"):
            signal = float(self.scheduler.alphas_cumprod[int(self._values[call])])
            return signal**0.5, (1 - signal) ** 0.5
        sigma = float(self.scheduler.sigmas[self._first + call])
        if self._prediction_type() == "flow_prediction" or self._latent_scale is LatentScale.EXPLODING:
            return 1.0, sigma
        alpha = (1 + sigma**2) ** -0.5
        return alpha, sigma * alpha


def build_schedule(menu: SamplerMenu, sampler: Sampler, steps: int, timing: Timing, strength: float = 1.0) -> Schedule:
    """The schedule of one request. Raises `InvalidRequest` where the sampler can't be spaced over so many steps."""
    kind = diffusers_class(sampler.scheduler)
    known = inspect.signature(kind.__init__).parameters
    scheduler = kind(**{name: value for name, value in menu.settings_for(sampler).items() if name in known})
    try:
        _set_timesteps(scheduler, steps, timing)
    except (ValueError, IndexError) as error:
        raise InvalidRequest(
            f"steps {steps}: {sampler.name} cannot be spaced over so many", param="steps", detail=str(error)
        ) from None
    return Schedule(scheduler, sampler.scale, timing.skipped_steps(steps, strength) * scheduler.order)


def _copy_of(scheduler: Any) -> Any:
    """One that shares its settings, which no step changes, and nothing else."""
    copied = copy(scheduler)
    for name, value in vars(scheduler).items():
        if name != _SETTINGS:
            setattr(copied, name, value.clone() if isinstance(value, torch.Tensor) else deepcopy(value))
    return copied


def _same(value: object, other: object) -> bool:
    if value is other:
        return True
    if type(value) is not type(other):
        return False
    if isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor):
        return value.dtype is other.dtype and value.device == other.device and torch.equal(value, other)
    if isinstance(value, np.ndarray) and isinstance(other, np.ndarray):
        return value.dtype == other.dtype and np.array_equal(value, other)
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_same, value, other))
    return bool(value == other)


def _set_timesteps(scheduler: Any, steps: int, timing: Timing) -> None:
    takes = inspect.signature(scheduler.set_timesteps).parameters
    own_spacing = bool(getattr(scheduler.config, "use_flow_sigmas", False))
    extra: dict[str, object] = {}
    if timing.mu is not None and "mu" in takes and getattr(scheduler.config, "use_dynamic_shifting", False):
        extra["mu"] = timing.mu
    if timing.sigmas is not None and "sigmas" in takes and not own_spacing:
        extra["sigmas"] = list(timing.sigmas)
    if "num_inference_steps" in takes and "sigmas" not in extra:
        extra["num_inference_steps"] = steps
    scheduler.set_timesteps(device="cpu", **extra)
