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

from stages.checkpoints.checkpoint import Checkpoint, LoadOptions
from stages.contract.errors import StageFailed
from stages.contract.recipe import NO_INPUTS, Inputs, Recipe
from stages.contract.stage import Share, Stepped
from stages.diffusion.checkpoint.checkpoint_parts import DiffusersFolder, open_folder
from stages.diffusion.denoise_request import check_request, is_guided, preview_calls
from stages.diffusion.denoise_row import DenoiseRow, PreparedDenoise
from stages.diffusion.families.describe import PainterInfo
from stages.diffusion.families.families import family_of
from stages.diffusion.families.family import Backbone, Condition, Family
from stages.diffusion.messages import Denoise, DenoiseEnd, DenoisePreview, DenoiseProgress, Latents, PromptEmbedding
from stages.diffusion.sampling.schedule import Schedule, build_schedule
from stages.diffusion.step_state import StepState, export_state, restore_state


class Denoiser:
    """An `IterativeStage[Denoise, PreparedDenoise, DenoiseRow]`. Its work unit is one latent position of one model row."""

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
        """Raises `InvalidRequest` with the payload's field at fault."""
        check_request(payload, self._info, self._menu)

    def weigh(self, payload: Denoise) -> float:
        """Exact."""
        height, width = payload.height // self._info.latent_factor, payload.width // self._info.latent_factor
        return float(height * width * (2 if is_guided(payload) else 1))

    def needs(self, payload: Denoise, inputs: Inputs = NO_INPUTS) -> Sequence[Recipe[Any]]:
        return payload.needs()

    def prepare(self, payload: Denoise, inputs: Inputs) -> PreparedDenoise:
        """All that can be done on the host. Raises `StageFailed` for results of another model's stages."""
        with torch.inference_mode():
            schedule = self._schedule(payload)
            generator = torch.Generator("cpu").manual_seed(payload.seed)
            init = None if payload.init is None else inputs[payload.init]
            latents = self._first_latents(payload, init, schedule, generator)
            condition, unconditional = self._conditions(payload, inputs)
            return PreparedDenoise(
                latents=latents,
                schedule=schedule,
                generator_state=generator.get_state(),
                condition=condition,
                unconditional=unconditional,
                guidance_scale=payload.guidance_scale,
                preview_calls=preview_calls(payload, schedule.num_calls),
            )

    def share(self, prepared: PreparedDenoise) -> Share:
        return Share(_batch_key(prepared.latents, prepared.condition), _cost(prepared.latents, prepared.num_model_rows))

    def can_start(self, payload: Denoise) -> bool:
        return True  # a row is a few latents; what shares a forward pass is bounded by the scheduler's cost limit

    def start(self, payload: Denoise, prepared: PreparedDenoise) -> DenoiseRow:
        with torch.inference_mode():
            return DenoiseRow.of(prepared, self._backbone.device)

    def batch_key(self, row: DenoiseRow) -> Hashable:
        return _batch_key(row.latents, row.condition)

    def cost(self, row: DenoiseRow) -> float:
        return _cost(row.latents, row.num_model_rows)

    def step(self, rows: Sequence[DenoiseRow]) -> Sequence[Stepped]:
        with torch.inference_mode():
            outputs = self._predict(rows)  # all that takes much memory; no row has changed until it is done
            return [_advance(row, output) for row, output in zip(rows, outputs, strict=True)]

    def finish(self, row: DenoiseRow) -> None:
        row.release()

    def suspend(self, row: DenoiseRow) -> StepState:
        """What `resume` needs to go on from here, on any replica of this stage."""
        return export_state(row)

    def resume(self, payload: Denoise, prepared: PreparedDenoise, suspended: StepState) -> DenoiseRow:
        """Raises `StageFailed` for another payload's state."""
        row = self.start(payload, prepared)
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

    def _first_latents(
        self, payload: Denoise, init: Latents | None, schedule: Schedule, generator: torch.Generator
    ) -> torch.Tensor:
        """[1, channels, height, width], with the draws that the library's pipelines make for this seed."""
        factor = self._info.latent_factor
        shape = (1, self._info.latent_channels, payload.height // factor, payload.width // factor)
        if init is None:
            return torch.randn(shape, generator=generator) * schedule.initial_scale
        image = _draw(init, shape, generator)
        return schedule.add_noise(image, torch.randn(shape, generator=generator))

    def _conditions(self, payload: Denoise, inputs: Inputs) -> tuple[Condition, Condition | None]:
        condition = self._condition(inputs[payload.prompt], payload)
        if payload.negative is None or not is_guided(payload):
            return condition, None
        unconditional = self._condition(inputs[payload.negative], payload)
        if _shapes(unconditional) != _shapes(condition):
            raise StageFailed(
                f"prompt and negative prompt are not of one shape: {_shapes(condition)}, {_shapes(unconditional)}"
            )
        return condition, unconditional

    def _condition(self, prompt: PromptEmbedding, payload: Denoise) -> Condition:
        return self._backbone.condition(prompt, payload.width, payload.height)


def _batch_key(latents: torch.Tensor, condition: Condition) -> Hashable:
    return tuple(latents.shape), _shapes(condition)


def _cost(latents: torch.Tensor, num_model_rows: int) -> float:
    return float(latents.shape[2] * latents.shape[3] * num_model_rows)


def _shapes(condition: Condition) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(value.shape)) for name, value in condition.items())


def _draw(init: Latents, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Latents of a given image: as they are, or drawn around them where a vae encoder gave their standard deviation."""
    for name, array in init.arrays().items():
        if (1, *array.shape) != shape:
            raise StageFailed(f"init {name} has shape {array.shape}; this size of image wants {shape[1:]}")
    latents = torch.tensor(init.latents).float()[None]
    if init.std is None:
        return latents
    return latents + torch.tensor(init.std).float()[None] * torch.randn(shape, generator=generator)


def _guide(output: torch.Tensor, guided: Sequence[DenoiseRow], num_rows: int) -> torch.Tensor:
    """Classifier-free guidance (Ho and Salimans, 2022, arXiv 2207.12598) over the first `len(guided)` rows."""
    if not guided:
        return output
    scale = torch.tensor([row.guidance_scale for row in guided], dtype=torch.float32).to(output.device).view(-1, 1, 1, 1)
    prompted, unprompted = output[: len(guided)], output[num_rows:]
    return torch.cat([unprompted + scale * (prompted - unprompted), output[len(guided) : num_rows]])


def _in_order(outputs: Sequence[torch.Tensor], order: Sequence[int]) -> Sequence[torch.Tensor]:
    by_row = dict(zip(order, outputs, strict=True))
    return [by_row[index] for index in range(len(order))]


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
        failed = StageFailed("the sampler failed", detail=f"{type(error).__name__}: {error}")
        return Stepped(error=error if isinstance(error, StageFailed) else failed)


def _result(latents: torch.Tensor) -> Latents:
    return Latents(latents[0].float().cpu().numpy())


def _finite(result: Latents) -> Latents:
    if not math.isfinite(np.sum(result.latents, dtype=np.float64)):
        raise StageFailed("the denoiser's result has values that are not numbers; load it with dtype float32 or bfloat16")
    return result
