"""How much work painting is, known before it starts from a checkpoint's settings files: latent positions of all rows and all model calls;
and how much of that the states spare that are kept of it.

Knows no weights and no torch; a pipeline asks, and the denoiser by the same rule.
"""

from dataclasses import dataclass
from typing import Self

from stages.checkpoints.checkpoint import Checkpoint
from stages.contract.news import NO_HINTS, Hints, hint
from stages.contract.work import Work
from stages.diffusion.checkpoint.checkpoint_parts import open_folder
from stages.diffusion.denoise_request import calls_of, is_guided
from stages.diffusion.families.describe import PainterInfo
from stages.diffusion.families.families import family_of
from stages.diffusion.messages import Denoise
from stages.diffusion.sampling.samplers import SamplerMenu, Spacing
from stages.diffusion.step_state import state_names

LETTERS_A_TOKEN = 4


@dataclass(frozen=True, slots=True)
class PaintingWork:
    """For one checkpoint; any thread."""

    info: PainterInfo
    menu: SamplerMenu
    spacing: Spacing

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> Self:
        """Reads settings files. Raises `ConfigurationError`."""
        folder = open_folder(checkpoint)
        family = family_of(folder)
        return cls(family.describe(folder), family.samplers(folder), family.spacing(folder))

    def of(self, payload: Denoise) -> Work:
        """Raises `InvalidRequest` for a sampler that the checkpoint doesn't take."""
        return step_work(payload, self.info) * float(self._num_calls(payload))

    def hints(self, payload: Denoise) -> Hints:
        """Where the painting could go on, by the names of its states. Raises as `of` does."""
        if not payload.keep_steps:
            return NO_HINTS
        names = state_names(payload, self.menu.choose(payload.sampler).name)
        calls = calls_of(names, payload, self._num_calls(payload))
        return Hints(
            tuple(hint(name) for name in names.values()),
            step_work(payload, self.info),
            unit="model calls",
            lengths=tuple(calls[step] for step in names),
            each_units=1.0,
            is_kept_by_name=True,
        )

    def _num_calls(self, payload: Denoise) -> int:
        timing = self.spacing(payload.width, payload.height, payload.steps)
        skipped = timing.skipped_steps(payload.steps, payload.strength) if payload.init is not None else 0
        return self.menu.num_calls(self.menu.choose(payload.sampler), payload.steps, skipped)


def step_work(payload: Denoise, info: PainterInfo) -> Work:
    """Of one model call."""
    height, width = payload.height // info.latent_factor, payload.width // info.latent_factor
    return Work(float(height * width * (2 if is_guided(payload) else 1)), 1.0)


def prompt_work(text: str, min_positions: int, least: float) -> float:
    """Tokens that a text encoder reads, about: by the letters, and no fewer than the empty text's `least`."""
    return max(least, len(text) / LETTERS_A_TOKEN, float(min_positions))
