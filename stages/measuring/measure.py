"""How long a loaded stage's batches and steps take: its own `run` and `step`, as its engine calls them, on a clock.

Decides how often each is done (until so many seconds have passed, and three times at least), and that the first doesn't count: it
allocates, and may compile. Knows no kind of stage.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Any

from stages.contract.stage import Stepped
from stages.measuring.device_bytes import PeakBytes
from stages.measuring.samples import Sample
from stages.profiles.profile import Point

MIN_TIMES = 3
Key = tuple[int, float]
"""Rows, and amount."""


def measured(
    stage: Any, samples: Iterable[Sample], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> tuple[tuple[Point, ...], int]:
    """A point for each number of rows and amount that came up, and the bytes that a row takes beside what is there without it.
    `seconds`: for each sample. What doesn't fit into memory ends it: a point less."""
    times: dict[Key, list[float]] = defaultdict(list)
    peaks: dict[int, int] = {}
    each = _stepped if hasattr(stage, "step") else _run
    for sample in samples:
        peak = PeakBytes(stage.device)
        with peak:
            num_rows = _repeat(each, stage, sample, seconds, times, clock)
        peaks[num_rows] = max(peak.taken, peaks.get(num_rows, 0))
    points = [_point(key, seen) for key, seen in sorted(times.items()) if len(seen) >= MIN_TIMES]
    return tuple(points), _row_bytes(peaks)


def _repeat(
    each: Callable[[Any, Sample, Callable[[], float]], Iterator[tuple[Key, float]]],
    stage: Any,
    sample: Sample,
    seconds: float,
    times: dict[Key, list[float]],
    clock: Callable[[], float],
) -> int:
    num_rows = max(rows for (rows, _), _ in each(stage, sample, clock))  # the first doesn't count
    began, num_times = clock(), 0
    while num_times < MIN_TIMES or clock() - began < seconds:
        for key, took in each(stage, sample, clock):
            times[key].append(took)
        num_times += 1
    return num_rows


def _run(stage: Any, sample: Sample, clock: Callable[[], float]) -> Iterator[tuple[Key, float]]:
    """One batch."""
    batch = [stage.prepare(payload, sample.inputs) for payload in sample.next()]
    amount = sum(stage.cost(item) for item in batch)
    with _timed(stage.device, clock) as took:
        stage.run(batch)
    yield (len(batch), amount), took[0]


def _stepped(stage: Any, sample: Sample, clock: Callable[[], float]) -> Iterator[tuple[Key, float]]:
    """All steps of rows that begin together."""
    payloads = sample.next()
    rows = [stage.start(payload, stage.prepare(payload, sample.inputs)) for payload in payloads]
    try:
        while rows:
            costs = [stage.cost(row) for row in rows]
            with _timed(stage.device, clock) as took:
                stepped: Sequence[Stepped] = stage.step(rows)
            did = [cost if one.work is None else one.work for cost, one in zip(costs, stepped, strict=True)]
            _raise_first(stepped)
            yield (sum(work > 0 for work in did), sum(did)), took[0]
            for row, one in zip(list(rows), stepped, strict=True):
                if one.done:
                    rows.remove(row)
                    stage.finish(row)
    finally:
        for row in rows:
            stage.finish(row)


def _raise_first(stepped: Sequence[Stepped]) -> None:
    error = next((one.error for one in stepped if one.error is not None), None)
    if error is not None:
        raise error


@contextmanager
def _timed(device: str, clock: Callable[[], float]) -> Iterator[list[float]]:
    """Its last item is how long it took, until the device had done it."""
    took: list[float] = []
    began = clock()
    yield took
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        torch.cuda.synchronize(device)
    took.append(clock() - began)


def _point(key: Key, seen: Sequence[float]) -> Point:
    low, _, high = quantiles(seen, n=4, method="inclusive")
    middle = median(seen)
    return Point(key[0], key[1], middle, round((high - low) / middle, 4))


def _row_bytes(peaks: dict[int, int]) -> int:
    """By the most and the fewest rows."""
    fewest, most = min(peaks), max(peaks)
    if most == fewest:
        return peaks[most] // most
    return max(0, (peaks[most] - peaks[fewest]) // (most - fewest))
