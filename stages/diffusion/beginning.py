"""What a painting begins with: noise, or a given image with noise on it, and what of that image stays.

Decides in which order a row's generator draws: as the library's pipelines do, so that a seed paints the same. Knows no model.
"""

from dataclasses import dataclass

import torch

from stages.contract.errors import StageFailed
from stages.diffusion.messages import Denoise, Latents
from stages.diffusion.sampling.schedule import Schedule
from stages.diffusion.sampling.surroundings import Surroundings


@dataclass(frozen=True, slots=True)
class Beginning:
    """`latents`: before the first model call, [1, channels, height, width] float32; `generator_state`: after the draws for them;
    `surroundings`: what is not painted (None: all is). On the host."""

    latents: torch.Tensor
    generator_state: torch.Tensor
    surroundings: Surroundings | None = None


def beginning(payload: Denoise, shape: tuple[int, ...], init: Latents | None, schedule: Schedule) -> Beginning:
    """`shape`: of the latents; `init`: of the payload's given image, if it has one. Raises `StageFailed` for those of another model."""
    generator = torch.Generator("cpu").manual_seed(payload.seed)
    if init is None:
        latents = torch.randn(shape, generator=generator) * schedule.initial_scale
        return Beginning(latents, generator.get_state())
    image = _draw(init, shape, generator)
    noise = torch.randn(shape, generator=generator)
    if not payload.masked:
        return Beginning(schedule.add_noise(image, noise), generator.get_state())
    # As the library's pipeline for masks: it draws latents of what is around, too, and what is painted all over begins with noise alone.
    torch.randn(shape, generator=generator)
    latents = noise * schedule.initial_scale if payload.strength == 1 else schedule.add_noise(image, noise)
    return Beginning(latents, generator.get_state(), Surroundings(image, noise, _mask(init, shape)))


def _draw(init: Latents, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Latents of a given image: as they are, or drawn around them where a vae encoder gave their standard deviation."""
    for name, array in (("latents", init.latents), ("std", init.std)):
        if array is not None and (1, *array.shape) != shape:
            raise StageFailed(f"init {name} has shape {array.shape}; this size of image wants {shape[1:]}")
    latents = torch.tensor(init.latents).float()[None]
    if init.std is None:
        return latents
    return latents + torch.tensor(init.std).float()[None] * torch.randn(shape, generator=generator)


def _mask(init: Latents, shape: tuple[int, ...]) -> torch.Tensor:
    wanted = (1, *shape[2:])
    if init.mask is None or init.mask.shape != wanted:
        given = None if init.mask is None else init.mask.shape
        raise StageFailed(f"init mask has shape {given}; this size of image wants {wanted}")
    return torch.tensor(init.mask).float()[None]
