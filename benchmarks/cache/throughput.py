"""How many chats a second two replicas answer where some of them begin as others did, or are about an image that was seen: with
everything remembered, and with nothing.

Two servers stand beside each other and take turns: one is idle while the other answers. To the one that remembers nothing every chat
is new (its slots remember nothing either), and as long. Decides loads. Knows no goals.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.cache.asking import ENCODER, ask
from benchmarks.cache.prompts import Beginnings, Body, about_image_at, image_addresses
from benchmarks.cache.samples import FORGETS, IMAGES, NEW, PROMPTS, REMEMBERS, Asked, Run
from benchmarks.cache.sides import MODEL
from benchmarks.cache.traffic import reused, traffic
from benchmarks.loads.http_client import http_client
from benchmarks.loads.load import closed_loop
from benchmarks.reporting.command import tell
from benchmarks.servers.counters import stage_counts

CONCURRENCY = 4
QUESTION_TOKENS = 24
NEW_TOKENS, NEW_TOKENS_OUT = 256, 8
TOKENS_OUT = 16
SETTLE_S = 2.5


@dataclass(frozen=True, slots=True)
class Plan:
    """`requests` in each load about system prompts, `images` in each about images, `new_requests` where everything is new. `turns`:
    how often each load is repeated, with other content."""

    turns: int
    requests: int
    images: int
    new_requests: int
    new_turns: int
    reuses: tuple[float, ...] = (0.0, 0.5, 0.8)
    prompt_tokens: int = 1500


def measure(urls: Mapping[str, str], plan: Plan) -> Iterator[Run]:
    """`urls`: of both servers, by whether they remember. Each run as soon as it is through."""
    loads = _Loads(Beginnings(), plan)
    for url in urls.values():
        asyncio.run(loads.warm(url))
    for turn in range(plan.turns):
        yield from _turn(loads, urls, plan, turn)
    for turn in range(plan.new_turns):
        for side in (REMEMBERS, FORGETS) if turn % 2 else (FORGETS, REMEMBERS):
            yield loads.run(urls[side], side, NEW, 0.0, turn)
            time.sleep(SETTLE_S)  # what leaves a replica once nobody asks is not the other side's load


def _turn(loads: _Loads, urls: Mapping[str, str], plan: Plan, turn: int) -> Iterator[Run]:
    reuses = sorted(plan.reuses, reverse=True)
    for about in (PROMPTS, IMAGES):
        for side, reuse in [(FORGETS, 0.0), *((REMEMBERS, reuse) for reuse in reuses)]:
            yield loads.run(urls[side], side, about, reuse, turn)
            time.sleep(SETTLE_S)


class _Loads:
    """Makes loads whose content never comes twice, but within one."""

    def __init__(self, beginnings: Beginnings, plan: Plan) -> None:
        self._beginnings, self._plan = beginnings, plan
        self._next = 10_000

    async def warm(self, url: str) -> None:
        async with http_client(url) as client:
            (address,) = image_addresses(1, self._take(1))
            about_image = about_image_at(MODEL, address, "Describe the picture.")
            bodies = [self._chat(64, self._take(1), self._take(1), 1) for _ in range(4)]
            await asyncio.gather(*(ask(client, body) for body in (*bodies, about_image)))

    def run(self, url: str, side: str, about: str, reuse: float, turn: int) -> Run:
        count = {PROMPTS: self._plan.requests, IMAGES: self._plan.images, NEW: self._plan.new_requests}[about]
        order = traffic(count, reuse=reuse, seed=turn)
        make: Callable[[list[int]], list[Body]] = {PROMPTS: self._prompts, IMAGES: self._images, NEW: self._new}[about]
        bodies = make(order)
        wall_s, asked, encoded = asyncio.run(_answered(url, bodies))
        found = Run(side, about, reuse, reused(order), turn, wall_s, asked, encoded)
        tell(f"{about}, {reuse:.0%} again, {side}: {found.per_s:.2f} a second")
        return found

    def _prompts(self, order: list[int]) -> list[Body]:
        first = self._take(len(order))
        return [self._chat(self._plan.prompt_tokens, first + number, index, TOKENS_OUT) for index, number in enumerate(order)]

    def _new(self, order: list[int]) -> list[Body]:
        first = self._take(len(order))
        return [self._chat(NEW_TOKENS, first + number, index, NEW_TOKENS_OUT) for index, number in enumerate(order)]

    def _images(self, order: list[int]) -> list[Body]:
        addresses = image_addresses(max(order) + 1, self._take(1))
        return [
            about_image_at(MODEL, addresses[number], f"Describe image {index}.", TOKENS_OUT)
            for index, number in enumerate(order)
        ]

    def _chat(self, num_tokens: int, beginning: int, question: int, num_out: int) -> Body:
        found = self._beginnings.make(num_tokens, beginning)
        return found.body(MODEL, self._beginnings.question(found, QUESTION_TOKENS, question), num_out)

    def _take(self, count: int) -> int:
        self._next += count
        return self._next - count


async def _answered(url: str, bodies: Sequence[Body]) -> tuple[float, Sequence[Asked], float]:
    async with http_client(url) as client:
        before = await stage_counts(client, f"{MODEL}.{ENCODER}")
        load = await closed_loop(lambda index: ask(client, bodies[index]), len(bodies), concurrency=CONCURRENCY)
        encoded = (await stage_counts(client, f"{MODEL}.{ENCODER}")).since(before).items
    return load.wall_s, [outcome.value for outcome in load.outcomes], encoded
