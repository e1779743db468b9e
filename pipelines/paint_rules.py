"""What may be asked of a painter, and what an unasked-for setting becomes. Pure: knows no stages, no pixels, no HTTP.

A refusal names the field, the value, what is allowed, and the setting that allows it.
"""

import math
from dataclasses import dataclass

from pipelines.jobs import PaintJob
from stages.errors import InvalidRequest

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
    max_side: int | None = None

    def size(self, job: PaintJob) -> Size:
        """Not asked for: the given picture's own where the model paints it, or else the model's. Raises `InvalidRequest`."""
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
                f"num_inference_steps {steps} is outside 1..{self.max_steps} (models.*.max_steps)", param="num_inference_steps"
            )
        return steps

    def guidance_scale(self, job: PaintJob) -> float:
        """Raises `InvalidRequest`."""
        guidance = job.guidance_scale if job.guidance_scale is not None else self.default_guidance_scale
        if not math.isfinite(guidance) or not 0 <= guidance <= 100:
            raise InvalidRequest(f"guidance_scale {guidance} is outside 0..100", param="guidance_scale")
        return guidance

    def sampler(self, job: PaintJob) -> str | None:
        """None: the checkpoint's own. Raises `InvalidRequest`."""
        if job.sampler is not None and job.sampler not in self.samplers:
            raise InvalidRequest(f"scheduler {job.sampler!r} is not one of {', '.join(self.samplers)}", param="scheduler")
        return job.sampler

    def strength(self, job: PaintJob) -> float:
        if job.init is None or job.init.strength is None:
            return self.default_strength
        return job.init.strength

    def _unasked_size(self, job: PaintJob) -> Size:
        if job.init is None:
            return self.default_size
        own = (job.init.picture.width, job.init.picture.height)
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
