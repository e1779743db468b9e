"""Whether a request to paint can run at all, and what its steps are in model calls. Pure: knows no torch."""

import math
from collections.abc import Iterable, Mapping

from stages.contract.errors import InvalidRequest
from stages.diffusion.families.describe import Guidance, PainterInfo
from stages.diffusion.messages import MAX_GUIDANCE_SCALE, Denoise
from stages.diffusion.sampling.samplers import SamplerMenu

_SEEDS = range(-(2**63), 2**64)  # what a torch generator takes


def check_request(payload: Denoise, info: PainterInfo, menu: SamplerMenu) -> None:
    """Raises `InvalidRequest` that names the field, the value and what is allowed."""
    _check_size(payload, info)
    fewest = menu.min_steps(menu.choose(payload.sampler))
    if not fewest <= payload.steps <= info.max_steps:
        raise InvalidRequest(f"steps {payload.steps} is outside {fewest}..{info.max_steps}", param="steps")
    if not (math.isfinite(payload.guidance_scale) and 0 <= payload.guidance_scale <= MAX_GUIDANCE_SCALE):
        raise InvalidRequest(
            f"guidance_scale {payload.guidance_scale} is outside 0..{MAX_GUIDANCE_SCALE:g}", param="guidance_scale"
        )
    if payload.negative is not None and info.guidance is not Guidance.CLASSIFIER_FREE:
        raise InvalidRequest("this model takes no negative prompt: it was trained without one", param="negative_prompt")
    if payload.seed not in _SEEDS:
        raise InvalidRequest(f"seed {payload.seed} is outside {_SEEDS.start}..{_SEEDS.stop - 1}", param="seed")
    if payload.init is not None:
        _check_strength(payload)


def is_guided(payload: Denoise) -> bool:
    """Whether a row without the prompt runs beside it: at a scale of 1 and under, the prompted row is the result."""
    return payload.negative is not None and payload.guidance_scale > 1


def calls_of(steps: Iterable[int], payload: Denoise, num_calls: int) -> Mapping[int, int]:
    """After which model call each step is done; steps that the request doesn't have are left out. They count in the request's steps,
    whatever its sampler makes of them (a second-order one calls the model nearly twice a step, image-to-image skips the first
    steps)."""
    return {step: math.ceil(step * num_calls / payload.steps) for step in steps if 1 <= step <= payload.steps}


def _check_size(payload: Denoise, info: PainterInfo) -> None:
    size = f"size {payload.width}x{payload.height}"
    for side in (payload.width, payload.height):
        if side < info.size_multiple or side % info.size_multiple:
            raise InvalidRequest(f"{size}: both sides must be multiples of {info.size_multiple}, and not zero", param="size")
        if info.max_side is not None and side > info.max_side:
            raise InvalidRequest(f"{size}: this model paints at most {info.max_side} pixels a side", param="size")


def _check_strength(payload: Denoise) -> None:
    if not 0 < payload.strength <= 1:  # also refuses NaN
        raise InvalidRequest(f"strength {payload.strength} is outside 0..1 (0 not allowed)", param="strength")
    if int(payload.steps * payload.strength) < 1:
        raise InvalidRequest(
            f"strength {payload.strength} of {payload.steps} steps leaves no step; raise strength or steps",
            param="strength",
        )
