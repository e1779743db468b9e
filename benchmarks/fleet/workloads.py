"""What is asked of the simulated fleet: chats, some of them about images, and paintings; in a steady stream, in bursts, by day and by
night, with images and beginnings of prompts that come again. Pure; the same seed gives the same requests, so every side is sent the same.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from benchmarks.fleet.devices import DECODER, DENOISER, LLM, PATCHES, PIXELS, POSITIONS, TEXT, VISION
from pipelines.planning.simulation.workload import Request, Task
from stages.contract.work import Work

CHAT, PAINTING = "chat", "painting"
CHAT_WITHIN_S, FIRST_WITHIN_S, PAINTING_WITHIN_S = 30.0, 3.0, 45.0
MEAN_ANSWER, LONGEST_ANSWER = 150, 512
PAGE_TOKENS = 64
SYSTEM_TOKENS = 4 * PAGE_TOKENS


@dataclass(frozen=True, slots=True)
class Taste:
    """`paintings`: which part of the requests; `with_image`: of the chats. `images`, `systems`: how many there are to choose from, by
    Zipf's law with this `skew`; 0: each is new."""

    paintings: float = 0.15
    with_image: float = 0.4
    images: int = 0
    systems: int = 0
    skew: float = 1.1


MIXED = Taste()
REUSED = Taste(images=500, systems=50)


def requests(
    arrivals: Iterable[float], taste: Taste = MIXED, *, seed: int = 1, deadline_s: float = float("inf")
) -> Iterator[Request]:
    """One at each of `arrivals`. `deadline_s`: after that many times its objective a request is given up."""
    source = random.Random(seed)
    images, systems = _Zipf(taste.images, taste.skew), _Zipf(taste.systems, taste.skew)
    fresh = itertools.count(10**9)
    for at_s in arrivals:
        if source.random() < taste.paintings:
            yield _painting(at_s, source, deadline_s)
        else:
            image = (images.draw(source) or next(fresh)) if source.random() < taste.with_image else None
            yield _chat(at_s, source, image, systems.draw(source), deadline_s)


def _chat(at_s: float, source: random.Random, image: int | None, system: int | None, deadline_s: float) -> Request:
    """`image`, `system`: which one; None: none, or one that nobody else has."""
    words = max(8, min(2000, round(source.lognormvariate(5.0, 0.8))))
    answer = max(8, min(LONGEST_ANSWER, round(source.lognormvariate(4.75, 0.75))))
    prompt = SYSTEM_TOKENS + words + (PATCHES if image is not None else 0)
    pages = tuple(10**12 + 10 * system + place for place in range(SYSTEM_TOKENS // PAGE_TOKENS)) if system is not None else ()
    needs = (Task(VISION, float(PATCHES), name=image),) if image is not None else ()
    expected = Work(float(prompt + MEAN_ANSWER), prompt / PATCHES + MEAN_ANSWER)
    call = Task(LLM, 1.0, answer, prompt, expected, pages=pages, paged=SYSTEM_TOKENS if pages else 0, needs=needs)
    return Request(at_s, (call,), CHAT, CHAT_WITHIN_S, FIRST_WITHIN_S, deadline_s * CHAT_WITHIN_S)


def _painting(at_s: float, source: random.Random, deadline_s: float) -> Request:
    """Half of them 1024 x 1024, half 512 x 512; with guidance, so two rows of each."""
    part = 1.0 if source.random() < 0.5 else 0.25
    texts = Task(TEXT, 154.0)
    steps = source.choice((20, 30, 50))
    calls = (Task(DENOISER, 2.0 * part * POSITIONS, steps, key=part, needs=(texts,)), Task(DECODER, part * PIXELS, key=part))
    return Request(at_s, calls, PAINTING, PAINTING_WITHIN_S, deadline_s=deadline_s * PAINTING_WITHIN_S)


class _Zipf:
    """Numbers from 1 to `count`, the k-th as often as k to the power of -`skew`; None where there are none."""

    def __init__(self, count: int, skew: float) -> None:
        self._cumulative = list(itertools.accumulate(rank**-skew for rank in range(1, count + 1)))

    def draw(self, source: random.Random) -> int | None:
        if not self._cumulative:
            return None
        return source.choices(range(1, len(self._cumulative) + 1), cum_weights=self._cumulative)[0]
