"""What no batcher can beat: the least median latency on a device that runs one batch at a time. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence


def least_median_s(arrivals: Sequence[float], run_s: float, max_items: int) -> float:
    """A lower bound of the median latency of requests that come at `arrivals`, where a batch takes `run_s` whatever its size and
    holds at most `max_items`; for a batcher that knows all arrivals beforehand.

    The half that is served soonest is served within the result. A batch may be begun early without loss until it meets its last
    request's arrival or the end of the batch before it, so batches begin `run_s` times a whole number after some arrival. The
    bound is reached where results are under twice `run_s`; over that, batches' requests may be counted twice.
    """
    wanted = math.ceil(len(arrivals) / 2)
    starts = sorted({arrival + turn * run_s for arrival in arrivals for turn in range(len(arrivals))})
    starts = [start for start in starts if start <= max(arrivals) + run_s]
    waits = sorted({round(start - arrival, 9) for start in starts for arrival in arrivals if start >= arrival})
    low, high = 0, len(waits) - 1
    while low < high:
        middle = (low + high) // 2
        if _most_served(arrivals, starts, waits[middle], run_s, max_items) >= wanted:
            high = middle
        else:
            low = middle + 1
    return waits[low] + run_s


def _most_served(arrivals: Sequence[float], starts: Sequence[float], wait_s: float, run_s: float, max_items: int) -> int:
    """How many requests can be in a batch that begins at most `wait_s` after their arrival."""
    slack = 1e-9
    best: list[int] = []
    for index, start in enumerate(starts):
        inside = sum(start - wait_s - slack <= arrival <= start + slack for arrival in arrivals)
        before = max((best[other] for other in range(index) if starts[other] <= start - run_s + slack), default=0)
        best.append(before + min(inside, max_items))
    return max(best)
