"""What may be asked of a painter, and what an unasked-for setting becomes: the configuration's word, or else the checkpoint's.
Pure: knows no weights, no pixels, no HTTP.

A refusal names the field, the value, what is allowed, and the setting that allows it.
"""

from dataclasses import dataclass
from typing import Self

from pipelines.jobs import GivenImage, PaintJob
from pipelines.settings.derived import max_pixels
from pipelines.settings.schema.config import TextToImageModel
from stages.contract.errors import ConfigurationError, InvalidRequest
from stages.diffusion.families.describe import Guidance, PainterInfo

Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True, slots=True)
class PaintRules:
    """From a model's checkpoint and its configuration. `sizes` empty: any size within the other bounds. `max_side` None: no
    limit of the model's."""

    sizes: tuple[Size, ...]
    default_size: Size
    size_multiple: int
    max_pixels: int
    default_steps: int
    max_steps: int
    default_guidance_scale: float
    default_strength: float
    samplers: tuple[str, ...]
    negative_prompts: bool
    max_prompt_tokens: int
    max_side: int | None = None
    has_guidance: bool = True

    @classmethod
    def of(cls, name: str, model: TextToImageModel, info: PainterInfo) -> Self:
        """Raises `ConfigurationError` for what the checkpoint cannot do."""
        sizes = tuple(_size(text) for text in model.sizes)
        rules = cls(
            sizes=sizes,
            default_size=sizes[0] if sizes else info.default_size,
            size_multiple=info.size_multiple,
            max_pixels=max_pixels(model),
            default_steps=model.default_steps or min(info.default_steps, model.max_steps),
            max_steps=min(model.max_steps, info.max_steps),
            default_guidance_scale=info.default_guidance_scale
            if model.default_guidance_scale is None
            else model.default_guidance_scale,
            default_strength=model.default_strength,
            samplers=info.samplers,
            negative_prompts=info.negative_prompts,
            max_prompt_tokens=info.max_prompt_tokens,
            max_side=info.max_side,
            has_guidance=info.guidance is not Guidance.NONE,
        )
        rules._refuse_what_the_checkpoint_cannot(f"models.{name}", info)
        return rules

    def size(self, job: PaintJob) -> Size:
        """Not asked for: the given image's own where the model paints it, or else the model's. Raises `InvalidRequest`."""
        if job.width is None or job.height is None:
            return self._unasked_size(job)
        size = (job.width, job.height)
        fault = self._fault(size)
        if fault is not None:
            raise InvalidRequest(f"size {size[0]}x{size[1]}{fault}", param="size")
        return size

    def steps(self, job: PaintJob) -> int:
        """Raises `InvalidRequest`."""
        steps = job.steps if job.steps is not None else self.default_steps
        if not 1 <= steps <= self.max_steps:
            raise InvalidRequest(
                f"steps {steps} is outside 1..{self.max_steps} (models.*.max_steps, and what the checkpoint's "
                "scheduler takes)",
                param="steps",
            )
        return steps

    def guidance_scale(self, job: PaintJob) -> float:
        """Raises `InvalidRequest`."""
        guidance = job.guidance_scale if job.guidance_scale is not None else self.default_guidance_scale
        if guidance > 1 and job.guidance_scale is not None and not self.has_guidance:
            raise InvalidRequest(
                f"guidance_scale {guidance} has no effect: this model was distilled to follow its prompt without; leave it out",
                param="guidance_scale",
            )
        return guidance

    def sampler(self, job: PaintJob) -> str | None:
        """None: the checkpoint's own. Raises `InvalidRequest`."""
        if job.sampler is not None and job.sampler not in self.samplers:
            raise InvalidRequest(f"sampler {job.sampler!r} is not one of {', '.join(self.samplers)}", param="sampler")
        return job.sampler

    def strength(self, job: PaintJob) -> float:
        """Not asked for: within a mask nothing of what was there stays; else the model's."""
        if job.init is None or (job.init.strength is None and job.init.mask is None):
            return self.default_strength
        return job.init.strength if job.init.strength is not None else 1.0

    def refuse_other_masks(self, init: GivenImage) -> None:
        """Raises `InvalidRequest` for a mask that is not of its image's size."""
        image, mask = init.image, init.mask
        if mask is not None and (mask.width, mask.height) != (image.width, image.height):
            raise InvalidRequest(
                f"mask has {mask.width} x {mask.height} pixels and the image {image.width} x {image.height}; a mask is as large as its "
                "image",
                param=mask.param,
            )

    def _refuse_what_the_checkpoint_cannot(self, path: str, info: PainterInfo) -> None:
        for size in self.sizes:
            fault = self._fault(size)
            if fault is not None:
                raise ConfigurationError(f"{path}.sizes: {size[0]}x{size[1]}{fault}")
        if self.default_steps > info.max_steps:
            raise ConfigurationError(
                f"{path}.default_steps: {self.default_steps} is more than the checkpoint's scheduler takes; at most {info.max_steps}"
            )

    def _unasked_size(self, job: PaintJob) -> Size:
        if job.init is None:
            return self.default_size
        own = (job.init.image.width, job.init.image.height)
        return own if self._fault(own) is None else self.default_size

    def _fault(self, size: Size) -> str | None:
        """What is wrong with a size, to stand behind its name; None: nothing."""
        if self.sizes and size not in self.sizes:
            return f" is not served; this model paints {', '.join(f'{width}x{height}' for width, height in self.sizes)}"
        if min(size) < self.size_multiple or any(side % self.size_multiple for side in size):
            return f": both sides must be multiples of {self.size_multiple}, and at least that"
        if size[0] * size[1] > self.max_pixels:
            return f" has {size[0] * size[1]} pixels; at most {self.max_pixels} (models.*.max_pixels)"
        if self.max_side is not None and max(size) > self.max_side:
            return f": this model paints at most {self.max_side} pixels a side"
        return None


def _size(text: str) -> Size:
    width, _, height = text.partition("x")
    return int(width), int(height)
