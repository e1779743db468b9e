"""A profile of a device that is not at hand, reckoned from another's by both datasheets. It says so of itself, wherever it goes.

Decides what of a step's time goes by bandwidth and what by arithmetic (the roofline: Williams, Waterman and Patterson, CACM 2009): the
part that is there whatever is in the step is reading weights, and goes by bytes a second; what each unit of work adds is arithmetic, and
goes by operations a second. Pure.
"""

from dataclasses import replace

from stages.profiles.datasheets import Datasheet
from stages.profiles.profile import Point, StageProfile

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def estimated(profile: StageProfile, measured_on: Datasheet, on: Datasheet, dtype: str | None = None) -> StageProfile | None:
    """The same stage on another device, in another dtype where one is given. None for a dtype of unknown size."""
    dtype = dtype or profile.dtype
    if not {dtype, profile.dtype} <= DTYPE_BYTES.keys():
        return None
    width = DTYPE_BYTES[dtype] / DTYPE_BYTES[profile.dtype]
    reading = width * measured_on.bytes_per_s / on.bytes_per_s
    computing = measured_on.flops_in(profile.dtype) / on.flops_in(dtype)
    base_s = base_seconds(profile)
    return replace(
        profile,
        device=on.name,
        dtype=dtype,
        points=tuple(_scaled(point, base_s, reading, computing) for point in profile.points),
        weights_bytes=round(profile.weights_bytes * width),
        row_bytes=round(profile.row_bytes * width),
        is_estimate=True,
    )


def base_seconds(profile: StageProfile) -> float:
    """What a step takes beside its work: where the line through its two largest amounts meets nothing, and no more than the smallest
    step took."""
    points = profile.step_times.points
    if len(points) < 2:
        return points[0][1]
    (lower, begins), (upper, ends) = points[-2:]
    slope = (ends - begins) / (upper - lower)
    return min(points[0][1], max(0.0, ends - slope * upper))


def _scaled(point: Point, base_s: float, reading: float, computing: float) -> Point:
    seconds = min(base_s, point.seconds) * reading + max(0.0, point.seconds - base_s) * computing
    return replace(point, seconds=seconds)
