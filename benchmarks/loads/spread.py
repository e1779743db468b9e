"""How a number is spread over the requests of a load: mean and percentiles. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """In the unit of what was counted."""

    mean: float
    p50: float
    p99: float
    max: float


def spread(values: Sequence[float]) -> Spread:
    """Raises `ValueError` where there is nothing."""
    return Spread(sum(values) / max(1, len(values)), percentile(values, 50), percentile(values, 99), max(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """With linear interpolation between the closest ranks (as numpy does). Raises `ValueError` where there is nothing."""
    if not values:
        raise ValueError("no percentile of nothing")
    if not 0 <= percent <= 100:
        raise ValueError(f"percent {percent}: must be from 0 to 100")
    ranked = sorted(values)
    place = (len(ranked) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (place - below)
