"""The samplers a request may name, and which of them suit a checkpoint.

Decides names, which diffusers scheduler class stands behind each, and what its settings are, given the checkpoint's own. Pure:
knows no torch; `schedule.py` builds the schedulers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from stages.contract.errors import ConfigurationError, InvalidRequest
from stages.diffusion.checkpoint.checkpoint_parts import DiffusersFolder, Settings

FLOW = "flow_prediction"
_NOISE_OR_VELOCITY = frozenset({"epsilon", "v_prediction"})
_NOISE_VELOCITY_SAMPLE = _NOISE_OR_VELOCITY | {"sample"}
_SECOND_ORDER = frozenset({"HeunDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"})
_ANY = _NOISE_VELOCITY_SAMPLE | {FLOW}


class LatentScale(StrEnum):
    """How a scheduler's latents mix image and noise: x + sigma * noise, or alpha * x + sigma * noise, unit squares."""

    EXPLODING = "exploding"
    PRESERVING = "preserving"


@dataclass(frozen=True, slots=True)
class Sampler:
    """`predictions`: the prediction types its scheduler can step; `overrides`: its settings over the checkpoint's.
    `distilled`: only for models distilled for it, which come with its scheduler."""

    name: str
    scheduler: str
    predictions: frozenset[str]
    scale: LatentScale = LatentScale.PRESERVING
    overrides: Mapping[str, object] = field(default_factory=dict)
    distilled: bool = False


SAMPLERS = (
    Sampler("ddim", "DDIMScheduler", _NOISE_VELOCITY_SAMPLE),
    Sampler("ddpm", "DDPMScheduler", _NOISE_VELOCITY_SAMPLE),
    Sampler("pndm", "PNDMScheduler", _NOISE_OR_VELOCITY, overrides={"skip_prk_steps": True}),
    Sampler("lms", "LMSDiscreteScheduler", _NOISE_VELOCITY_SAMPLE, LatentScale.EXPLODING),
    Sampler("euler", "EulerDiscreteScheduler", _NOISE_VELOCITY_SAMPLE, LatentScale.EXPLODING),
    Sampler("euler_a", "EulerAncestralDiscreteScheduler", _NOISE_OR_VELOCITY, LatentScale.EXPLODING),
    Sampler("heun", "HeunDiscreteScheduler", _NOISE_VELOCITY_SAMPLE, LatentScale.EXPLODING),
    Sampler("dpmpp_2m", "DPMSolverMultistepScheduler", _ANY, overrides={"algorithm_type": "dpmsolver++"}),
    Sampler(
        "dpmpp_2m_karras",
        "DPMSolverMultistepScheduler",
        _NOISE_VELOCITY_SAMPLE,
        overrides={"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
    ),
    Sampler("dpmpp_2m_sde", "DPMSolverMultistepScheduler", _ANY, overrides={"algorithm_type": "sde-dpmsolver++"}),
    Sampler("dpmpp_2s", "DPMSolverSinglestepScheduler", _ANY, overrides={"algorithm_type": "dpmsolver++"}),
    Sampler("deis", "DEISMultistepScheduler", _ANY),
    Sampler("unipc", "UniPCMultistepScheduler", _ANY),
    Sampler("lcm", "LCMScheduler", _NOISE_VELOCITY_SAMPLE, distilled=True),
    Sampler("flow_euler", "FlowMatchEulerDiscreteScheduler", frozenset({FLOW})),
    Sampler("flow_heun", "FlowMatchHeunDiscreteScheduler", frozenset({FLOW})),
)


@dataclass(frozen=True, slots=True)
class Timing:
    """What a family passes to `set_timesteps` beside the number of steps, where the scheduler takes it: its own noise levels,
    and the shift for this image size. `rounds_strength_up`: image-to-image counts a step begun as a step."""

    sigmas: tuple[float, ...] | None = None
    mu: float | None = None
    rounds_strength_up: bool = False

    def skipped_steps(self, steps: int, strength: float) -> int:
        """How many of the first steps image-to-image leaves out."""
        if self.rounds_strength_up:
            return int(steps - min(steps * strength, steps))
        return steps - min(int(steps * strength), steps)


Spacing: TypeAlias = Callable[[int, int, int], Timing]
"""From an image's width and height in pixels and the number of steps."""


@dataclass(frozen=True, slots=True)
class SamplerMenu:
    """The samplers that suit one checkpoint. `config`: its scheduler's settings; `default`: the checkpoint's own sampler."""

    config: Mapping[str, object]
    prediction_type: str
    default: Sampler
    allowed: tuple[Sampler, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sampler.name for sampler in self.allowed)

    @property
    def num_train_timesteps(self) -> int:
        value = self.config.get("num_train_timesteps", 1000)
        return value if isinstance(value, int) else 1000

    @property
    def max_steps(self) -> int:
        """Half the training steps: up to there every spacing gives distinct timesteps inside the training range."""
        most = max(1, self.num_train_timesteps // 2)
        distilled = self.config.get("original_inference_steps", most)
        return min(most, distilled) if isinstance(distilled, int) else most

    def min_steps(self, sampler: Sampler) -> int:
        """PNDM that begins with Runge-Kutta steps needs four of them; everything else can do with one."""
        settings = self.settings_for(sampler)
        return 4 if sampler.scheduler == "PNDMScheduler" and not settings.get("skip_prk_steps") else 1

    def num_calls(self, sampler: Sampler, steps: int, skipped_steps: int = 0) -> int:
        """Model calls that so many steps take, but for the first ones that are left out: as diffusers' `set_timesteps` has them."""
        if sampler.scheduler in _SECOND_ORDER:  # two a step, one for the last
            return 2 * (steps - skipped_steps) - 1
        more = 0
        if sampler.scheduler == "PNDMScheduler":
            more = min(1, steps - 1) if self.settings_for(sampler).get("skip_prk_steps") else 9
        return steps + more - skipped_steps

    def choose(self, name: str | None) -> Sampler:
        """Raises `InvalidRequest` for a sampler that is unknown or doesn't suit the checkpoint."""
        if name is None:
            return self.default
        for sampler in self.allowed:
            if sampler.name == name:
                return sampler
        known = any(sampler.name == name for sampler in SAMPLERS)
        problem = f"cannot sample a model with prediction type {self.prediction_type!r}" if known else "is not a sampler"
        raise InvalidRequest(f"sampler {name!r} {problem}; this model takes {', '.join(self.names)}", param="sampler")

    def settings_for(self, sampler: Sampler) -> dict[str, object]:
        """The settings to build the sampler's scheduler from; the checkpoint's own, untouched, for its own sampler."""
        if sampler == self.default:
            return dict(self.config)
        settings = {"clip_sample": False} | dict(self.config)  # latents are not bounded like pixels
        if self.prediction_type == FLOW:
            settings |= _flow_settings(settings)
        return settings | dict(sampler.overrides)


def scheduler_settings(folder: DiffusersFolder) -> Settings:
    return folder.settings("scheduler", "scheduler_config.json")


def menu_of(scheduler: Settings, config: Mapping[str, object]) -> SamplerMenu:
    """`config`: the scheduler's settings as the checkpoint's family uses them. Raises `ConfigurationError`."""
    class_name = scheduler.text("_class_name")
    ours = [sampler for sampler in SAMPLERS if sampler.scheduler == class_name]
    if not ours:
        known = sorted({sampler.scheduler for sampler in SAMPLERS})
        raise ConfigurationError(f"{scheduler.path}: {class_name} is not supported; supported are {', '.join(known)}")
    prediction = FLOW if class_name.startswith("FlowMatch") else scheduler.text("prediction_type", "epsilon")
    default = max(ours, key=lambda sampler: _agreement(sampler, config))
    if prediction not in default.predictions:
        raise ConfigurationError(f"{scheduler.path}: {class_name} cannot step prediction_type {prediction!r}")
    allowed = tuple(sampler for sampler in SAMPLERS if sampler == default or _suits(sampler, prediction, config))
    return SamplerMenu(config, prediction, default, allowed)


def _suits(sampler: Sampler, prediction: str, config: Mapping[str, object]) -> bool:
    if prediction not in sampler.predictions or sampler.distilled:
        return False
    if not config.get("use_dynamic_shifting") or sampler.name == "flow_euler":
        return True
    # Of the others, the solvers know the exponential shift for an image's size; Heun's knows none.
    return sampler.name != "flow_heun" and config.get("time_shift_type", "exponential") == "exponential"


def _agreement(sampler: Sampler, config: Mapping[str, object]) -> int:
    """How many of the sampler's settings the config has; negative where it contradicts one."""
    told = {name: config[name] for name in sampler.overrides if name in config}
    if any(sampler.overrides[name] != value for name, value in told.items()):
        return -1
    return len(told)


def _flow_settings(config: Mapping[str, object]) -> dict[str, object]:
    """The same flow schedule in the words of either kind of scheduler: flow matching ones, and solvers with flow sigmas."""
    shift = config.get("shift", config.get("flow_shift", 1.0))
    return {"prediction_type": FLOW, "use_flow_sigmas": True, "flow_shift": shift, "shift": shift}
