"""Loads of several kinds of request, drawn at random: how long answers are, which images come again, how conversations go on.

Decides how requests of a kind are drawn. Pure; the same seed gives the same load. When they come is `arrivals.py`.
"""

import csv
import random
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import accumulate

from pipelines.planning.simulation.workload import Request, Task

Draw = Callable[[random.Random], float]


def fixed(value: float) -> Draw:
    return lambda source: value


def exponential(mean: float) -> Draw:
    return lambda source: source.expovariate(1 / mean)


def lognormal(median: float, sigma: float) -> Draw:
    """`sigma`: the standard deviation of the logarithm."""
    return lambda source: median * source.lognormvariate(0.0, sigma)


def zipf(num: int, exponent: float = 1.0) -> Draw:
    """1 to `num`, the nth most popular as often as 1 / n ** `exponent`."""
    cumulative = list(accumulate((n + 1) ** -exponent for n in range(num)))
    return lambda source: 1 + bisect_left(cumulative, source.random() * cumulative[-1])


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of requests. `share`: of all, compared to others'. `calls`: draws what one of them asks for. The rest: as of `Request`."""

    name: str
    share: float
    calls: Callable[[random.Random], tuple[Task, ...]]
    within_s: float = float("inf")
    first_within_s: float = float("inf")
    deadline_s: float = float("inf")
    priority: int = 0
    tenants: Sequence[str] = ("default",)


def traffic(arrivals: Iterable[float], kinds: Sequence[Kind], seed: int) -> Iterator[Request]:
    """A request for each arrival."""
    source = random.Random(seed)
    shares = [kind.share for kind in kinds]
    for at_s in arrivals:
        (kind,) = source.choices(kinds, shares) if len(kinds) > 1 else kinds
        yield Request(
            at_s,
            kind.calls(source),
            kind.name,
            kind.within_s,
            kind.first_within_s,
            kind.deadline_s,
            kind.priority,
            source.choice(kind.tenants) if len(kind.tenants) > 1 else kind.tenants[0],
        )


def chats(
    llm: str,
    *,
    prompt: Draw,
    answer: Draw,
    expected_answer: float,
    encoder: str | None = None,
    image: Draw = fixed(0),
    patches: float = 1.0,
    chunk: int = 512,
) -> Callable[[random.Random], tuple[Task, ...]]:
    """With an image each where there is an encoder; `image` draws which (0: one that never came before and never comes again).
    `expected_answer`: tokens that are foreseen, whatever `answer` draws."""

    def draw(source: random.Random) -> tuple[Task, ...]:
        tokens, steps = max(1, round(prompt(source))), max(1, round(answer(source)))
        needs = () if encoder is None else (Task(encoder, patches, name=round(image(source)) or source.getrandbits(63)),)
        expected = Task(llm, prompt=tokens, steps=max(1, round(expected_answer))).work(chunk)
        return (Task(llm, prompt=tokens, steps=steps, expected=expected, needs=needs),)

    return draw


def paintings(
    denoiser: str,
    *,
    positions: Draw,
    steps: Draw,
    text_encoder: str | None = None,
    tokens: float = 77.0,
    decoder: str | None = None,
) -> Callable[[random.Random], tuple[Task, ...]]:
    """`positions`: latent positions times rows; images of as many share steps. Decoding costs as many."""

    def draw(source: random.Random) -> tuple[Task, ...]:
        amount = positions(source)
        needs = () if text_encoder is None else (Task(text_encoder, tokens),)
        painted = Task(denoiser, amount, max(1, round(steps(source))), key=amount, needs=needs)
        return (painted,) if decoder is None else (painted, Task(decoder, amount))

    return draw


def azure_trace(
    lines: Iterable[str], kind: Kind, llm: str, *, expected_answer: float, speed_up: float = 1.0
) -> Iterator[Request]:
    """The requests of a public trace of Azure's language models: lines of `TIMESTAMP,ContextTokens,GeneratedTokens`, the first of them
    names the columns (Patel et al., "Splitwise", ISCA 2024). Of `kind` the bounds are taken, and what is needed first."""
    source, begins = random.Random(0), None
    for line in csv.DictReader(lines):
        at = datetime.fromisoformat(line["TIMESTAMP"][:26]).timestamp()
        begins = at if begins is None else begins
        (task,) = kind.calls(source)
        prompt, steps = max(1, int(line["ContextTokens"])), max(1, int(line["GeneratedTokens"]))
        expected = Task(llm, prompt=prompt, steps=max(1, round(expected_answer))).work(512)
        yield Request(
            (at - begins) / speed_up,
            (replace(task, stage=llm, prompt=prompt, steps=steps, expected=expected),),
            kind.name,
            kind.within_s,
            kind.first_within_s,
            kind.deadline_s,
            kind.priority,
            kind.tenants[0],
        )
