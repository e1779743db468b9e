"""How soon the first token comes, by where the beginning of its prompt is remembered.

Decides how a beginning comes to lie in a slot, in memory or in Redis alone: a slot is overwritten by short chats, memory (which holds
one long beginning, and no second) by the next round's. Every round is about beginnings of its own, so that the times of one round lie
close together and can be compared. Where an answer says that it came from elsewhere, that is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cache.asking import ask
from benchmarks.cache.prompts import Beginnings, Body, about_image_at, image_addresses
from benchmarks.cache.samples import (
    AGAIN,
    ALONE,
    BEFORE,
    COLD,
    ELSEWHERE,
    IMAGE,
    KILLED,
    LONG,
    MEMORY_LOST,
    OURS,
    PAIRED,
    SHORT,
    SLOTS_LOST,
    TWO,
    VLLM,
    Asked,
    Sample,
    tokens,
)
from benchmarks.cache.sides import MODEL, Served, one_of_each, served, vllm
from benchmarks.loads.http_client import http_client
from benchmarks.reporting.command import tell

QUESTION_TOKENS = 32
TEMPLATE_TOKENS = 3
"""With which every chat begins, and which are found of any."""
NUM_SLOTS = 2
BESIDE = 64
"""What memory holds beside one long beginning: a page, for what is asked about it makes one more."""
PAIRS = 4
"""Short chats in a slot and alone, in a round."""
SETTLE_S = 2.5  # exporting behind the answer, and a report
BACK_S = 20.0  # until a killed replica is back, and the machine quiet
LONGS, ANOTHERS, NEW, FILLERS = 250, 500, 1_000, 2_000
"""Beginnings are numbered from here for each purpose, so that none comes twice."""


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    elsewhere_rounds: int
    long_tokens: int = LONG


class _Chats:
    """One server that is asked, one chat at a time, and what became of it."""

    def __init__(self, url: str, beginnings: Beginnings, side: str = OURS) -> None:
        self._client, self._beginnings, self._side = http_client(url), beginnings, side
        self._questions = self._fillers = self._alone = 0
        self.samples: list[Sample] = []

    async def about(self, num_tokens: int, situation: str, number: int) -> Asked:
        beginning = self._beginnings.make(num_tokens, number + (0 if num_tokens == SHORT else LONGS))
        self._questions += 1
        question = self._beginnings.question(beginning, QUESTION_TOKENS, self._questions)
        found = await self._asked(beginning.body(MODEL, question), tokens(num_tokens), situation, number)
        if situation == COLD and found.cached_tokens > QUESTION_TOKENS:
            raise RuntimeError(f"a chat that should be new found {found.cached_tokens} tokens of its beginning")
        return found

    async def about_image(self, address: str, situation: str, number: int) -> None:
        await self._asked(about_image_at(MODEL, address, "Describe the picture."), IMAGE, situation, number)

    async def alone(self, number: int, situation: str = ALONE) -> Asked:
        """A chat of which as many tokens are computed as follow a beginning: it is unlike all before."""
        self._alone += 1
        short = self._beginnings.make(QUESTION_TOKENS // 2, NEW + self._alone)
        question = self._beginnings.question(short, QUESTION_TOKENS + TEMPLATE_TOKENS - short.num_tokens, self._alone)
        return await self._asked(short.body(MODEL, question), tokens(SHORT), situation, number)

    async def _asked(self, body: Body, about: str, situation: str, number: int) -> Asked:
        found = await ask(self._client, body)
        self.samples.append(Sample(self._side, about, situation, number, found))
        return found

    async def overwrite_slots(self) -> None:
        for _ in range(NUM_SLOTS):
            self._fillers += 1
            short = self._beginnings.make(QUESTION_TOKENS, FILLERS + self._fillers)
            await ask(self._client, short.body(MODEL, "Yes"))

    async def close(self) -> None:
        await self._client.aclose()


def measure(plan: Plan) -> list[Sample]:
    """Of one replica, on a server of its own."""
    all_tokens = (plan.long_tokens + SHORT) * (plan.rounds + 3)
    config = one_of_each(num_slots=NUM_SLOTS, memory_tokens=plan.long_tokens + BESIDE, redis_tokens=all_tokens)
    tell("first token: one replica")
    with served(config) as server:
        return asyncio.run(_on_one_replica(server, Beginnings(), plan))


def measure_elsewhere(server: Served, plan: Plan) -> list[Sample]:
    """Of two replicas."""
    tell("first token: two replicas")
    return asyncio.run(_on_another(server, Beginnings(), plan))


async def _on_one_replica(server: Served, beginnings: Beginnings, plan: Plan) -> list[Sample]:
    chats = _Chats(server.url, beginnings)
    try:
        await chats.overwrite_slots()  # warm
        for number in range(plan.rounds):
            await _round(chats, number, plan.long_tokens)
        server.kill("llm")
        await chats.overwrite_slots()  # it is back, and warm
        for number in range(plan.rounds):
            for num_tokens in (SHORT, plan.long_tokens):
                await chats.about(num_tokens, KILLED, number)
        return chats.samples
    finally:
        await chats.close()


async def _round(chats: _Chats, number: int, long_tokens: int) -> None:
    for num_tokens in (SHORT, long_tokens):
        await chats.about(num_tokens, COLD, number)
        await asyncio.sleep(SETTLE_S)
        await chats.about(num_tokens, AGAIN, number)
        if num_tokens == SHORT:
            await _beside_alone(chats, number)
        await chats.overwrite_slots()
        await chats.about(num_tokens, SLOTS_LOST, number)
    await chats.overwrite_slots()
    await chats.alone(number, BEFORE)
    await chats.about(SHORT, MEMORY_LOST, number)  # by the long one
    if number:
        await chats.about(long_tokens, MEMORY_LOST, number - 1)
    (address,) = image_addresses(1, number)
    await chats.about_image(address, COLD, number)
    await chats.about_image(address, AGAIN, number)
    await chats.overwrite_slots()
    await chats.about_image(address, SLOTS_LOST, number)


async def _beside_alone(chats: _Chats, number: int) -> None:
    """In turns, for what is told of the two is their difference: a tenth of either. The slots hold the beginning and what came last."""
    for _ in range(PAIRS):
        await chats.alone(number)
        await chats.about(SHORT, PAIRED, number)


async def _on_another(server: Served, beginnings: Beginnings, plan: Plan) -> list[Sample]:
    """Chats about one beginning, the second once the replica that answered the first is gone, and two are there again."""
    chats = _Chats(server.url, beginnings, TWO)
    try:
        for number in range(ANOTHERS, ANOTHERS + plan.elsewhere_rounds):
            first = await chats.about(plan.long_tokens, COLD, number)
            await asyncio.sleep(SETTLE_S)
            server.kill("llm", first.replica)
            await asyncio.sleep(BACK_S)
            if (await chats.about(plan.long_tokens, ELSEWHERE, number)).replica == first.replica:
                raise RuntimeError(f"replica {first.replica} was killed and answers")
        return chats.samples
    finally:
        await chats.close()


def measure_vllm(folder: Path, plan: Plan) -> list[Sample]:
    """Before and after a restart. Raises `SkippedSide`."""
    beginnings, samples = Beginnings(), list[Sample]()
    for situations in ((COLD, AGAIN), (KILLED,)):
        tell(f"first token: vLLM, {situations[0]}")
        with vllm(folder) as url:
            samples += asyncio.run(_of_vllm(url, beginnings, plan, situations))
    return samples


async def _of_vllm(url: str, beginnings: Beginnings, plan: Plan, situations: Sequence[str]) -> list[Sample]:
    chats = _Chats(url, beginnings, VLLM)
    try:
        await chats.overwrite_slots()  # warm
        for number in range(plan.rounds):
            for num_tokens in (SHORT, plan.long_tokens):
                for situation in situations:
                    await chats.about(num_tokens, situation, number)
        return chats.samples
    finally:
        await chats.close()
