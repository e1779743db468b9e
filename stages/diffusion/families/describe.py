"""What a text-to-image checkpoint can do, read from its settings files alone: no weights, no model library.

A pipeline asks this once at start; the stages ask it when they load. What is read is the family's decision.
"""

from dataclasses import dataclass
from enum import StrEnum


class Guidance(StrEnum):
    """How a model follows its prompt more closely: a second row with the negative prompt, or a number it was trained with."""

    CLASSIFIER_FREE = "classifier_free"
    EMBEDDED = "embedded"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class PainterInfo:
    """`default_size`: (width, height) in pixels. `latent_factor`: pixels along a side for one latent position.
    `size_multiple`: what both sides must divide by. `max_side`: of either side in pixels (None: no limit of the model's).
    `max_prompt_tokens`: of text, without marks. `max_steps`: the most that every sampler takes. `default_steps` and
    `default_guidance_scale`: what its makers paint with, as far as its settings tell."""

    family: str
    default_size: tuple[int, int]
    latent_channels: int
    latent_factor: int
    size_multiple: int
    max_prompt_tokens: int
    prediction_type: str
    samplers: tuple[str, ...]
    default_sampler: str
    max_steps: int
    default_steps: int
    default_guidance_scale: float
    guidance: Guidance = Guidance.CLASSIFIER_FREE
    max_side: int | None = None

    @property
    def negative_prompts(self) -> bool:
        """Whether the model can be told what not to paint."""
        return self.guidance is Guidance.CLASSIFIER_FREE
