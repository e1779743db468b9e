"""The stage that paints: step-level continuous batching over requests that agree in nothing but their latents' shape.

Decides what a step's forward pass holds (one row a request, or two with classifier-free guidance) and which events follow it.
Knows no HTTP, no prompts' texts, no pixels. No state is kept between steps but in the rows. Latents and sampler arithmetic are
float32 whatever the model's dtype: in float32 the result is the library pipeline's; in bfloat16 and float16 only the model's
input and output are rounded. A request may begin where an equal one was left, at a state that was kept of it (`stages/contract/pages.py`).
"""

import logging
import math
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch

from stages.checkpoints.checkpoint import Checkpoint, LoadOptions
from stages.contract.errors import StageFailed
from stages.contract.pages import MadePage, PageRun
from stages.contract.recipe import NO_INPUTS, Inputs, Recipe
from stages.contract.stage import Share, Stepped
from stages.contract.work import Work
from stages.device.uploads import uploaded
from stages.diffusion.beginning import Beginning, beginning
from stages.diffusion.checkpoint.checkpoint_parts import DiffusersFolder, open_folder
from stages.diffusion.denoise_request import calls_of, check_request, is_guided
from stages.diffusion.denoise_row import DenoiseRow, Keeping, PreparedDenoise
from stages.diffusion.families.describe import PainterInfo
from stages.diffusion.families.families import family_of
from stages.diffusion.families.family import Backbone, Condition, Family
from stages.diffusion.messages import Denoise, DenoiseEnd, DenoisePreview, DenoiseProgress, Latents, PromptEmbedding
from stages.diffusion.row_state import export_state, fits, restore_state
from stages.diffusion.sampling.schedule import Schedule, build_schedule
from stages.diffusion.step_state import GENERATOR, LATENTS, StepState, state_names
from stages.diffusion.work import step_work

MAX_KEPT_BYTES = 32 * 2**20
"""Of states that wait to be handed over; of more the oldest are lost."""
_BYTES_BESIDE = 8192  # of a state's tensors: the generator's, mostly
_FINISHED = ("finished",)
"""The batch key of rows that were done when they started: they wait for nobody's forward pass."""


class Denoiser:
    """An `IterativeStage[Denoise, PreparedDenoise, DenoiseRow]` and `Paged[Denoise]`: its pages are the states that a request wants
    kept, each as good as all before it. Its work unit is one latent position of one model row."""

    def __init__(self, family: Family, folder: DiffusersFolder, backbone: Backbone, device: str) -> None:
        self._backbone = backbone
        self._device = device
        self._menu = family.samplers(folder)
        self._spacing = family.spacing(folder)
        self._info = family.describe(folder)
        self._kept: deque[MadePage] = deque()

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
        return step_work(payload, self._info).amount

    @property
    def page_type(self) -> type[StepState]:
        return StepState

    def page_run(self, payload: Denoise) -> PageRun:
        names = self._state_names(payload)
        if not names:
            return PageRun()
        work = self.weigh(payload) * max(names) / len(names)
        latents_bytes = 4 * math.prod(self._shape(payload))
        return PageRun(tuple(names.values()), work=work, num_bytes=2 * latents_bytes + _BYTES_BESIDE, each_holds_all=True)

    def needs(self, payload: Denoise, inputs: Inputs = NO_INPUTS) -> Sequence[Recipe[Any]]:
        """Who goes on from a state needs no image to begin with, but around what is painted, behind the trunk not that prompt, and after
        the last step none."""
        step, _ = self._left_at(payload, inputs)
        if step == payload.steps:
            return ()
        trunk = payload.trunk if step < payload.trunk_steps else None
        init = payload.init if payload.masked or not step else None
        return tuple(recipe for recipe in (payload.prompt, payload.negative, trunk, init) if recipe is not None)

    def prepare(self, payload: Denoise, inputs: Inputs) -> PreparedDenoise:
        """All that can be done on the host. Raises `StageFailed` for results of another model's stages."""
        with torch.inference_mode():
            schedule = self._schedule(payload)
            names = self._state_names(payload)
            calls = calls_of(names, payload, schedule.num_calls)
            step, state = self._left_at(payload, inputs, schedule)
            begins = self._begins(payload, inputs, schedule, state)
            condition, unconditional = ({}, None) if step == payload.steps else self._conditions(payload, inputs)
            return PreparedDenoise(
                latents=begins.latents,
                schedule=schedule,
                generator_state=begins.generator_state,
                condition=condition,
                unconditional=unconditional,
                guidance_scale=payload.guidance_scale,
                preview_calls=frozenset(calls_of(payload.preview_steps, payload, schedule.num_calls).values()),
                keeping=Keeping({calls[step]: name for step, name in names.items()}, payload.salt),
                begins_at=state,
                trunk=self._shaped_as(condition, payload.trunk, payload, inputs) if step < payload.trunk_steps else None,
                trunk_calls=calls_of([payload.trunk_steps], payload, schedule.num_calls).get(payload.trunk_steps, 0),
                surroundings=begins.surroundings,
            )

    def share(self, prepared: PreparedDenoise) -> Share:
        if prepared.done:
            return Share(_FINISHED, 0.0)
        return Share(_batch_key(prepared.latents, prepared.condition), _cost(prepared.latents, prepared.num_model_rows))

    def can_start(self, payload: Denoise) -> bool:
        return True  # a row is a few latents; what shares a forward pass is bounded by the scheduler's cost limit

    def start(self, payload: Denoise, prepared: PreparedDenoise) -> DenoiseRow:
        return self._row(prepared, prepared.begins_at)

    def batch_key(self, row: DenoiseRow) -> Hashable:
        return _FINISHED if row.done else _batch_key(row.latents, row.condition)

    def cost(self, row: DenoiseRow) -> float:
        return 0.0 if row.done else _cost(row.latents, row.num_model_rows)

    def rest(self, row: DenoiseRow) -> Work:
        """Exact. What was done when it started takes a step of its own, of no work."""
        num_left = float(row.schedule.num_calls - row.call)
        return Work(0.0, 1.0) if row.done else Work(self.cost(row) * num_left, num_left)

    def step(self, rows: Sequence[DenoiseRow]) -> Sequence[Stepped]:
        if rows[0].done:  # and so are all of its batch key
            return [_ended(row) for row in rows]
        with torch.inference_mode():
            outputs = self._predict(rows)  # all that takes much memory; no row has changed until it is done
            stepped = [_advance(row, output) for row, output in zip(rows, outputs, strict=True)]
            for row, one in zip(rows, stepped, strict=True):
                if one.error is None:
                    self._keep(row)
            return stepped

    def has_exports(self, *, idle: bool) -> bool:
        return bool(self._kept)

    def export(self, *, idle: bool) -> Sequence[MadePage]:
        """All that there are, idle or not: they are wanted, few and small."""
        pages = tuple(self._kept)
        self._kept.clear()
        return pages

    def lost(self, names: Sequence[str]) -> None:
        """They are nowhere any more; who paints that again keeps them again."""

    def finish(self, row: DenoiseRow) -> None:
        row.release()

    def suspend(self, row: DenoiseRow) -> StepState:
        """What `resume` needs to go on from here, on any replica of this stage."""
        return export_state(row)

    def resume(self, payload: Denoise, prepared: PreparedDenoise, suspended: StepState) -> DenoiseRow:
        """Raises `StageFailed` for another payload's state."""
        return self._row(prepared, suspended)

    def _row(self, prepared: PreparedDenoise, state: StepState | None) -> DenoiseRow:
        with torch.inference_mode():
            row = DenoiseRow.of(prepared, self._backbone.device)
            if state is not None:
                restore_state(row, state)
            return row

    def _keep(self, row: DenoiseRow) -> None:
        """What a sampler remembers may be nothing that can be taken along: then nobody goes on from there. The row has advanced, and
        fails for nothing that goes wrong here."""
        name = row.keeping.names.get(row.call)
        if name is None:
            return
        try:
            self._kept.append(MadePage(name, row.keeping.salt, export_state(row).freeze()))
        except Exception as error:
            told = error if isinstance(error, StageFailed) else f"{type(error).__name__}: {error}"
            logging.getLogger("triptych.stages").warning("the state after call %d is not kept: %s", row.call, told)
        while sum(page.value.num_bytes for page in self._kept) > MAX_KEPT_BYTES:
            self._kept.popleft()

    def _state_names(self, payload: Denoise) -> Mapping[int, str]:
        return state_names(payload, self._menu.choose(payload.sampler).name)

    def _left_at(self, payload: Denoise, inputs: Inputs, schedule: Schedule | None = None) -> tuple[int, StepState | None]:
        """After which step the furthest of the payload's states among the inputs was taken, and that state; 0 and None: there is none.
        What is no state of this painting is as if it were not there. `schedule`: the payload's, where there is one."""
        named = {step: inputs.get(name) for step, name in self._state_names(payload).items()}
        states = {step: state for step, state in named.items() if isinstance(state, StepState)}
        if not states:
            return 0, None
        schedule = self._schedule(payload) if schedule is None else schedule
        calls, shape = calls_of(states, payload, schedule.num_calls), self._shape(payload)
        fitting = (step for step in sorted(states, reverse=True) if fits(states[step], calls[step], shape, schedule))
        step = next(fitting, 0)
        return step, states.get(step)

    def _predict(self, rows: Sequence[DenoiseRow]) -> Sequence[torch.Tensor]:
        """The model's guided output for every row, in order, from one forward pass: guided rows first, then the others, then
        the guided rows again without their prompt."""
        order = sorted(range(len(rows)), key=lambda index: not rows[index].guided)
        prompted = [rows[index] for index in order]
        guided = [row for row in prompted if row.guided]
        inputs = [row.schedule.model_input(row.latents, row.call) for row in prompted]
        timesteps = [row.schedule.timestep(row.call) for row in prompted + guided]
        conditions = [row.followed for row in prompted] + [row.unconditional or {} for row in guided]
        output = self._backbone.predict(
            torch.cat(inputs + inputs[: len(guided)]),
            uploaded(torch.tensor(timesteps, dtype=torch.float32), self._backbone.device),
            {name: torch.stack([condition[name] for condition in conditions]) for name in conditions[0]},
            [row.guidance_scale for row in prompted + guided],
        )
        return _in_order(torch.tensor_split(_guide(output, guided, len(rows)), len(rows)), order)

    def _schedule(self, payload: Denoise) -> Schedule:
        timing = self._spacing(payload.width, payload.height, payload.steps)
        strength = payload.strength if payload.init is not None else 1.0
        return build_schedule(self._menu, self._menu.choose(payload.sampler), payload.steps, timing, strength)

    def _shape(self, payload: Denoise) -> tuple[int, int, int, int]:
        """Of its latents: (1, channels, height, width)."""
        factor = self._info.latent_factor
        return 1, self._info.latent_channels, payload.height // factor, payload.width // factor

    def _begins(self, payload: Denoise, inputs: Inputs, schedule: Schedule, state: StepState | None) -> Beginning:
        """Or goes on, from a state: then of a given image nothing is wanted but what stays of it."""
        shape, init = self._shape(payload), payload.init
        if state is None:
            return beginning(payload, shape, inputs[init] if init is not None else None, schedule)
        left = Beginning(torch.tensor(state.tensors[LATENTS]), torch.tensor(state.tensors[GENERATOR]))
        if init is None or not payload.masked or state.call >= schedule.num_calls:
            return left
        return replace(left, surroundings=beginning(payload, shape, inputs[init], schedule).surroundings)

    def _conditions(self, payload: Denoise, inputs: Inputs) -> tuple[Condition, Condition | None]:
        condition = self._condition(inputs[payload.prompt], payload)
        if not is_guided(payload):
            return condition, None
        return condition, self._shaped_as(condition, payload.negative, payload, inputs)

    def _shaped_as(
        self, condition: Condition, recipe: Recipe[PromptEmbedding] | None, payload: Denoise, inputs: Inputs
    ) -> Condition | None:
        """Of another prompt that shares a batch with it. Raises `StageFailed` where it has another shape."""
        if recipe is None:
            return None
        other = self._condition(inputs[recipe], payload)
        if _shapes(other) != _shapes(condition):
            raise StageFailed(f"a painting's prompts are not of one shape: {_shapes(condition)}, {_shapes(other)}")
        return other

    def _condition(self, prompt: PromptEmbedding, payload: Denoise) -> Condition:
        return self._backbone.condition(prompt, payload.width, payload.height)


def _batch_key(latents: torch.Tensor, condition: Condition) -> Hashable:
    return tuple(latents.shape), _shapes(condition)


def _cost(latents: torch.Tensor, num_model_rows: int) -> float:
    return float(latents.shape[2] * latents.shape[3] * num_model_rows)


def _shapes(condition: Condition) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(value.shape)) for name, value in condition.items())


def _guide(output: torch.Tensor, guided: Sequence[DenoiseRow], num_rows: int) -> torch.Tensor:
    """Classifier-free guidance (Ho and Salimans, 2022, arXiv 2207.12598) over the first `len(guided)` rows."""
    if not guided:
        return output
    scales = torch.tensor([row.guidance_scale for row in guided], dtype=torch.float32)
    scale = uploaded(scales, output.device).view(-1, 1, 1, 1)
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
            events.append(_end(row))
        return Stepped(events, done=row.done)
    except Exception as error:
        failed = StageFailed("the sampler failed", detail=f"{type(error).__name__}: {error}")
        return Stepped(error=error if isinstance(error, StageFailed) else failed)


def _ended(row: DenoiseRow) -> Stepped:
    """Of a row that was done when it started: the last of its progress, and the end; no work."""
    return Stepped((DenoiseProgress(row.call, row.schedule.num_calls), _end(row)), done=True, work=0.0)


def _end(row: DenoiseRow) -> DenoiseEnd:
    return DenoiseEnd(_finite(_result(row.latents)))


def _result(latents: torch.Tensor) -> Latents:
    return Latents(latents[0].float().cpu().numpy())


def _finite(result: Latents) -> Latents:
    if not math.isfinite(np.sum(result.latents, dtype=np.float64)):
        raise StageFailed("the denoiser's result has values that are not numbers; load it with dtype float32 or bfloat16")
    return result
