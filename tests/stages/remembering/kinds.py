"""Every kind of value that stages remember, made by replicas that share nothing but a Redis: the language model and the painter are small
real ones, what is left is made by small stages with the real messages and results."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cache.breaker import Breaker
from cache.memory import MemoryTier
from cache.redis.redis_connection import Patience
from cache.redis.redis_tier import RedisTier
from cache.tiered import TieredCache
from stages.checkpoints.checkpoint import Checkpoint, Contents, LoadOptions, Source, resolve
from stages.contract.item import Item, StreamEnd
from stages.contract.recipe import Recipe
from stages.contract.result import Arrays
from stages.diffusion.denoiser import Denoiser
from stages.diffusion.messages import (
    DecodeLatents,
    Denoise,
    DenoiseEnd,
    EncodePrompt,
    EncodeToLatents,
    Latents,
    Pixels,
    PromptEmbedding,
)
from stages.diffusion.text_encoder import TextEncoder
from stages.host.host import StageHost
from stages.llm.llm import Llm
from stages.llm.messages import Generate, GenerationEnd, Sampling
from stages.llm.settings import LlmSettings
from stages.vision.messages import Embedding, EmbedInput, EncodeImage, VisionFeatures
from tests.pipelines.stages import OneShot
from tests.stages.host.hosting import collect, once
from tests.stages.llm.library.oracle import load

PATIENT, HURRIED = Patience(timeout_s=10.0), Patience(timeout_s=0.3)
"""The first where Redis answers, however busy the machine is; the second where it is to be found out soon that it doesn't."""
PAUSE_S = 0.2
PAGE_TOKENS = 8
PROMPT_PAGES = 4
SETTINGS = LlmSettings(2, 128, 16, page_tokens=PAGE_TOKENS)
STEPS, KEPT = 6, 3
ROWS = np.arange(4 * 8, dtype=np.float32).reshape(4, 8)

VISION, EMBEDDER, TEXTS, TO_LATENTS, TO_PIXELS = (
    "m.vision_encoder",
    "m.embedder",
    "m.text_encoder",
    "m.vae_encoder",
    "m.vae_decoder",
)
LLM, DENOISER = "m.llm", "m.denoiser"

ONE_SHOT = {
    "vision_features": VISION,
    "embedding": EMBEDDER,
    "prompt_embedding": TEXTS,
    "latents": TO_LATENTS,
    "pixels": TO_PIXELS,
}
"""Kind of value -> who makes it."""
PAGED = {"kv_page": LLM, "step_state": DENOISER}
KINDS = frozenset(ONE_SHOT | PAGED)
NUM_VALUES = len(ONE_SHOT) + PROMPT_PAGES + 1
"""That one round of `ask_all` leaves behind, at least."""


@dataclass(frozen=True, slots=True)
class Models:
    """Files of the small real ones."""

    llm: Path
    painter: Checkpoint


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody who asked was given, and where it was (`StageReceipt.cache`)."""

    arrays: Arrays
    cache: str

    def assert_same(self, other: "Answer") -> None:
        assert self.arrays.keys() == other.arrays.keys()
        for name, array in self.arrays.items():
            np.testing.assert_allclose(array.astype(np.float64), other.arrays[name].astype(np.float64), atol=1e-4)


Answers = Mapping[str, Answer]
"""By the kind of value."""


def caches(answers: Answers) -> dict[str, str]:
    return {kind: answer.cache for kind, answer in answers.items()}


def assert_same(one: Answers, other: Answers) -> None:
    for kind in KINDS:
        one[kind].assert_same(other[kind])


class Replica:
    """A process with all stages. Without room in memory, unless `memory_bytes` says otherwise, so that all comes from Redis."""

    def __init__(self, models: Models, url: str, *, memory_bytes: int = 0, patience: Patience = PATIENT) -> None:
        self.tiers = [
            RedisTier(url, patience=patience, breaker=Breaker(pause_s=PAUSE_S), namespace=namespace)
            for namespace in ("results", "pages")
        ]
        cache, pages = (TieredCache([MemoryTier(memory_bytes), tier]) for tier in self.tiers)
        self.host = StageHost(cache=cache, pages=pages)
        contents = Contents("", "w")
        for stage, made in _one_shot_stages().items():
            self.host.add(stage, made, contents=contents)
        self.host.add(TEXTS, TextEncoder.load(models.painter, LoadOptions()), contents=contents)
        self.host.add(DENOISER, Denoiser.load(models.painter, LoadOptions()), contents=contents)
        self.llm: Llm = load(models.llm, SETTINGS)
        self.in_s = float("inf")
        """Time that whoever asks has: of it, half is waited for another process."""
        self.host.add(LLM, self.llm, contents=contents)

    async def ask_all(self, number: int = 0, salt: str = "ada") -> Answers:
        """For one thing of every kind, at once; others for another `number`. The names don't tell tenants apart."""
        payloads = _payloads(number, salt)
        one_shot = [self._ask(kind, payloads[kind], f"{kind}-{number}", salt) for kind in ONE_SHOT]
        paged = [self._generate(number, salt), self._denoise(number, salt)]
        answers = await asyncio.gather(*one_shot, *paged)
        return dict(zip((*ONE_SHOT, *PAGED), answers, strict=True))

    async def _ask(self, kind: str, payload: Any, name: str, salt: str) -> Answer:
        item = Item("r", payload, name, salt=salt, tenant=salt, deadline=time.time() + self.in_s)
        reply = await self.host.call(ONE_SHOT[kind], item)
        return Answer(reply.value.arrays(), reply.receipt.cache)

    async def _generate(self, number: int, salt: str) -> Answer:
        prompt = tuple(10 + number + place % 40 for place in range(PROMPT_PAGES * PAGE_TOKENS + 3))
        work = Generate(prompt, Sampling(max_tokens=4, temperature=0.0, logit_bias={2: -100.0}), salt=salt)
        events = await collect(self.host.stream(LLM, Item("r", work, salt=salt, tenant=salt)))
        text = "".join(getattr(event, "text", "") for event in events)
        assert any(isinstance(event, GenerationEnd) for event in events)
        return Answer({"text": np.frombuffer(text.encode(), np.uint8)}, _cache_of(events))

    async def _denoise(self, number: int, salt: str) -> Answer:
        prompt: Recipe[PromptEmbedding] = Recipe(f"red-{number}", TEXTS, EncodePrompt("a red circle"))
        work = Denoise(prompt, None, 32, 32, STEPS, 1.0, seed=number, keep_steps=(KEPT,), salt=salt)
        events = await collect(self.host.stream(DENOISER, Item("r", work, salt=salt, tenant=salt)))
        (end,) = (event for event in events if isinstance(event, DenoiseEnd))
        return Answer(end.latents.arrays(), _cache_of(events))

    async def written(self, num_pages: int) -> None:
        """Returns once so many pages were handed over in all, and everything is in Redis or lost."""
        await once(lambda: self.count("pages_exported_total") + self.count("pages_dropped_total") >= num_pages)
        await self.host.settled()
        for tier in self.tiers:
            assert await asyncio.to_thread(tier.flush, 30.0)

    async def recovered(self) -> None:
        """Returns once both tiers' breakers are closed: somebody must try."""
        for tier in self.tiers:
            await asyncio.to_thread(_try_until_up, tier)

    def count(self, name: str) -> float:
        return sum(stage.counters.get(name, 0.0) for stage in self.host.metrics())


def _try_until_up(tier: RedisTier) -> None:
    while tier.stats().is_down:
        tier.holds(["anything"])


def _cache_of(events: list[object]) -> str:
    (last,) = (event for event in events if isinstance(event, StreamEnd))
    return last.receipt.cache


def _one_shot_stages() -> dict[str, OneShot[Any]]:
    def number(data: Any) -> float:
        return float(bytes(data)[0])

    return {
        VISION: OneShot(VisionFeatures, lambda payload: VisionFeatures(ROWS + number(payload.data), np.array([1, 2, 2]))),
        EMBEDDER: OneShot(Embedding, lambda payload: Embedding(ROWS[0] + len(payload.text), np.asarray(len(payload.text)))),
        TO_LATENTS: OneShot(Latents, lambda payload: Latents(ROWS.reshape(2, 4, 4) + number(payload.data))),
        TO_PIXELS: OneShot(Pixels, lambda payload: Pixels(payload.latents.latents.reshape(2, 2, 3).astype(np.uint8))),
    }


def _payloads(number: int, salt: str) -> Mapping[str, Any]:
    data = bytes([number])
    return {
        "vision_features": EncodeImage(data, 100),
        "embedding": EmbedInput("x" * (number + 1)),
        "prompt_embedding": EncodePrompt(f"circle {number}"),
        "latents": EncodeToLatents(data, 8, 8, 100),
        "pixels": DecodeLatents(Latents(np.full((3, 2, 2), float(number), np.float32))),
    }


def load_models(llm: Path, painter: Path) -> Models:
    return Models(llm, replace(resolve(Source(folder=str(painter)))))
