"""The stage that paints: step-level continuous batching over requests that agree in nothing but their latents' shape.

Decides what a step's forward pass holds (one row a request, or two with classifier-free guidance) and which events follow it.
Knows no HTTP, no prompts' texts, no pixels. No state is kept between steps but in the rows. Latents and sampler arithmetic are
float32 whatever the model's dtype: in float32 the result is the library pipeline's; in bfloat16 and float16 only the model's
input and output are rounded.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from stages.checkpoints.checkpoint import Checkpoint, LoadOptions
from stages.contract.errors import StageFailed
from stages.contract.result import Arrays
from stages.contract.stage import Stepped
from stages.diffusion.checkpoint.checkpoint_parts import DiffusersFolder, open_folder
from stages.diffusion.denoise_request import check_request, is_guided, preview_calls
from stages.diffusion.denoise_row import DenoiseRow
from stages.diffusion.families.describe import PainterInfo
from stages.diffusion.families.families import family_of
from stages.diffusion.families.family import Backbone, Condition, Family
from stages.diffusion.messages import Denoise, DenoiseEnd, DenoisePreview, DenoiseProgress
from stages.diffusion.sampling.schedule import Schedule, build_schedule
from stages.diffusion.step_state import StepState, export_state, restore_state


class Denoiser:
    """An iterative stage. Its work unit is one latent position of one model row."""

    def __init__(self, family: Family, folder: DiffusersFolder, backbone: Backbone, device: str) -> None:
        self._backbone = backbone
        self._device = device
        self._menu = family.samplers(folder)
        self._spacing = family.spacing(folder)
        self._info = family.describe(folder)

    @classmethod
    def load(cls, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Reads the unet or transformer and the settings of scheduler and vae. Raises `ConfigurationError`."""
        folder = open_folder(checkpoint)
        family = family_of(folder)
        return cls(family, folder, family.load_backbone(folder, options), options.device)

    @property
    def device(self) -> str:
        return self._device

    @property
    def info(self) -> PainterInfo:
        return self._info

    def check(self, payload: Denoise) -> None:
        """Raises `InvalidRequest` with the HTTP field at fault."""
        check_request(payload, self._info, self._menu)

    def weigh(self, payload: Denoise) -> tuple[Hashable, float]:
        size = payload.height // self._info.latent_factor, payload.width // self._info.latent_factor
        shapes = tuple((name, np.shape(value)) for name, value in payload.prompt.items())
        return (size, shapes), float(size[0] * size[1] * (2 if is_guided(payload) else 1))

    def can_start(self, payload: Denoise) -> bool:
        return True  # a row is a few latents; what shares a forward pass is bounded by the scheduler's cost limit

    def start(self, payload: Denoise) -> DenoiseRow:
        self.check(payload)
        with torch.inference_mode():
            schedule = self._schedule(payload)
            generator = torch.Generator("cpu").manual_seed(payload.seed)
            latents = self._first_latents(payload, schedule, generator)
            return self._row(payload, schedule, generator, latents)

    def batch_key(self, row: DenoiseRow) -> Hashable:
        return tuple(row.latents.shape), _shapes(row.condition)

    def cost(self, row: DenoiseRow) -> float:
        return float(row.latents.shape[2] * row.latents.shape[3] * row.num_model_rows)

    def step(self, rows: Sequence[DenoiseRow]) -> Sequence[Stepped]:
        with torch.inference_mode():
            outputs = self._predict(rows)  # all that takes much memory; no row has changed until it is done
            return [_advance(row, output) for row, output in zip(rows, outputs, strict=True)]

    def finish(self, row: DenoiseRow) -> None:
        row.release()

    def suspend(self, row: DenoiseRow) -> StepState:
        """What `resume` needs to go on from here, on any replica of this stage."""
        return export_state(row)

    def resume(self, payload: Denoise, suspended: StepState) -> DenoiseRow:
        """A row that goes on where the suspended one of the same payload stopped. Raises `StageFailed` for another's state."""
        row = self.start(payload)
        with torch.inference_mode():
            restore_state(row, suspended)
        return row

    def _predict(self, rows: Sequence[DenoiseRow]) -> Sequence[torch.Tensor]:
        """The model's guided output for every row, in order, from one forward pass: guided rows first, then the others, then
        the guided rows again without their prompt."""
        order = sorted(range(len(rows)), key=lambda index: not rows[index].guided)
        prompted = [rows[index] for index in order]
        guided = [row for row in prompted if row.guided]
        inputs = [row.schedule.model_input(row.latents, row.call) for row in prompted]
        timesteps = [row.schedule.timestep(row.call) for row in prompted + guided]
        conditions = [row.condition for row in prompted] + [row.unconditional or {} for row in guided]
        output = self._backbone.predict(
            torch.cat(inputs + inputs[: len(guided)]),
            torch.tensor(timesteps, dtype=torch.float32).to(self._backbone.device),
            {name: torch.stack([condition[name] for condition in conditions]) for name in conditions[0]},
            [row.guidance_scale for row in prompted + guided],
        )
        return _in_order(torch.tensor_split(_guide(output, guided, len(rows)), len(rows)), order)

    def _schedule(self, payload: Denoise) -> Schedule:
        timing = self._spacing(payload.width, payload.height, payload.steps)
        strength = payload.strength if payload.init is not None else 1.0
        return build_schedule(self._menu, self._menu.choose(payload.sampler), payload.steps, timing, strength)

    def _first_latents(self, payload: Denoise, schedule: Schedule, generator: torch.Generator) -> torch.Tensor:
        """[1, channels, height, width] on the CPU, with the draws that the library's pipelines make for this seed."""
        factor = self._info.latent_factor
        shape = (1, self._info.latent_channels, payload.height // factor, payload.width // factor)
        if payload.init is None:
            return torch.randn(shape, generator=generator) * schedule.initial_scale
        picture = _draw(payload.init, shape, generator)
        return schedule.add_noise(picture, torch.randn(shape, generator=generator))

    def _row(self, payload: Denoise, schedule: Schedule, generator: torch.Generator, latents: torch.Tensor) -> DenoiseRow:
        negative = payload.negative if is_guided(payload) else None
        size = (payload.width, payload.height)
        condition = self._backbone.condition(payload.prompt, *size)
        unconditional = None if negative is None else self._backbone.condition(negative, *size)
        if unconditional is not None and _shapes(unconditional) != _shapes(condition):
            raise StageFailed(
                f"prompt and negative prompt are not of one shape: {_shapes(condition)}, {_shapes(unconditional)}"
            )
        return DenoiseRow(
            latents=latents.to(self._backbone.device),
            schedule=schedule,
            generator=generator,
            condition=condition,
            unconditional=unconditional,
            guidance_scale=payload.guidance_scale,
            preview_calls=preview_calls(payload, schedule.num_calls),
        )


def _shapes(condition: Condition) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(value.shape)) for name, value in condition.items())


def _draw(init: Arrays, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Latents of a given picture: as they are, or drawn around them where a vae encoder gave their standard deviation."""
    for name, array in init.items():
        if (1, *array.shape) != shape:
            raise StageFailed(f"init {name} has shape {array.shape}; this size of picture wants {shape[1:]}")
    latents = torch.tensor(init["latents"]).float()[None]
    if "std" not in init:
        return latents
    return latents + torch.tensor(init["std"]).float()[None] * torch.randn(shape, generator=generator)


def _guide(output: torch.Tensor, guided: Sequence[DenoiseRow], num_rows: int) -> torch.Tensor:
    """Classifier-free guidance (Ho and Salimans, 2022, arXiv 2207.12598) over the first `len(guided)` rows."""
    if not guided:
        return output
    scale = torch.tensor([row.guidance_scale for row in guided], dtype=torch.float32).to(output.device).view(-1, 1, 1, 1)
    prompted, unprompted = output[: len(guided)], output[num_rows:]
    return torch.cat([unprompted + scale * (prompted - unprompted), output[len(guided) : num_rows]])


def _in_order(outputs: Sequence[torch.Tensor], order: Sequence[int]) -> Sequence[torch.Tensor]:
    placed = dict(zip(order, outputs, strict=True))
    return [placed[index] for index in range(len(order))]


def _advance(row: DenoiseRow, output: torch.Tensor) -> Stepped:
    """A row whose sampler fails, fails alone."""
    try:
        estimate = row.advance(output)
        events: list[object] = [DenoiseProgress(row.call, row.schedule.num_calls)]
        if estimate is not None:
            events.append(DenoisePreview(row.call, _result(estimate)))
        if row.done:
            events.append(DenoiseEnd(_finite(_result(row.latents))))
        return Stepped(events, done=row.done)
    except Exception as error:
        return Stepped(error=error if isinstance(error, StageFailed) else StageFailed(f"the sampler failed: {error}"))


def _result(latents: torch.Tensor) -> Arrays:
    array: NDArray[Any] = latents[0].float().cpu().numpy()
    return {"latents": array}


def _finite(latents: Arrays) -> Arrays:
    if not all(math.isfinite(np.sum(array, dtype=np.float64)) for array in latents.values()):
        raise StageFailed("the denoiser's result has values that are not numbers; load it with dtype float32 or bfloat16")
    return latents
