"""Small stages with the messages of real ones, for pipelines: their results are large, and their devices wait for the test."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from stages.contract.errors import InvalidRequest
from stages.contract.recipe import NO_INPUTS, Inputs, InputsMissing, Payload, Recipe
from stages.contract.result import Result
from stages.contract.stage import Share, Stepped
from stages.diffusion.messages import (
    DecodeLatents,
    Denoise,
    DenoiseEnd,
    DenoisePreview,
    DenoiseProgress,
    EncodePrompt,
    EncodeToLatents,
    Latents,
    Pixels,
    PromptEmbedding,
)
from stages.llm.messages import Generate, GenerationEnd, TokenDelta
from stages.vision.messages import Embedding, EmbedInput, EncodeImage, VisionFeatures
from tests.stages.fakes import Gate

P = TypeVar("P", bound=Payload)
LARGE = (512, 1024)  # 2 MiB in float32
BAD = b"no image"


class OneShot(Generic[P]):
    """Makes a result of each payload by itself."""

    device = "cpu"

    def __init__(self, result_type: type[Result], make: Callable[[P], Result]) -> None:
        self.result_type, self._make = result_type, make
        self.gate = Gate()
        self.made: list[P] = []

    def check(self, payload: P) -> None: ...

    def weigh(self, payload: P) -> float:
        return 1.0

    def prepare(self, payload: P, inputs: Inputs) -> P:
        data = getattr(payload, "data", None) or getattr(payload, "image", None)
        if data is not None and bytes(data) == BAD:
            raise InvalidRequest("it is no image")
        return payload

    def batch_key(self, item: P) -> Hashable:
        return None

    def cost(self, item: P) -> float:
        return 1.0

    def run(self, batch: Sequence[P]) -> Sequence[Result]:
        self.gate.pass_through()
        self.made += batch
        return [self._make(payload) for payload in batch]


def vision_encoder() -> OneShot[EncodeImage]:
    return OneShot(VisionFeatures, lambda payload: VisionFeatures(np.full(LARGE, len(payload.data), np.float32)))


def text_encoder() -> OneShot[EncodePrompt]:
    def make(payload: EncodePrompt) -> PromptEmbedding:
        positions = max(len(payload.text.split()), payload.min_positions)
        return PromptEmbedding(np.full((positions, 500_000), len(payload.text), np.float32))

    return OneShot(PromptEmbedding, make)


def vae_encoder() -> OneShot[EncodeToLatents]:
    return OneShot(Latents, lambda payload: Latents(np.full((4, 512, 256), len(payload.data), np.float32)))


def vae_decoder() -> OneShot[DecodeLatents]:
    def make(payload: DecodeLatents) -> Pixels:
        return Pixels(np.full((2, 2, 3), payload.latents.latents.flat[0], np.uint8))

    return OneShot(Pixels, make)


def embedder() -> OneShot[EmbedInput]:
    def make(payload: EmbedInput) -> Embedding:
        return Embedding(np.ones(2, np.float32), np.asarray(len(payload.text or "")))

    return OneShot(Embedding, make)


@dataclass(eq=False)
class Row(Generic[P]):
    payload: P
    given: float
    steps: int = 0


@dataclass(frozen=True)
class Given:
    """What the inputs add up to: the first number of each."""

    names: frozenset[str]
    total: float


class Rows(Generic[P]):
    """What the two iterative stages share. What it `holds` of results, by their names, it need not be given."""

    device = "cpu"

    def __init__(self) -> None:
        self.gate = Gate()
        self.holds: set[str] = set()
        self.running: list[Row[P]] = []
        self.started: list[P] = []

    def check(self, payload: P) -> None: ...

    def weigh(self, payload: P) -> float:
        return 1.0

    def needs(self, payload: P, inputs: Inputs = NO_INPUTS) -> Sequence[Recipe[Any]]:
        return [recipe for recipe in payload.needs() if recipe.name not in self.holds]

    def prepare(self, payload: P, inputs: Inputs) -> Given:
        given = {recipe.name: inputs[recipe] for recipe in payload.needs() if recipe in inputs}
        firsts = [float(next(iter(result.arrays().values())).flat[0]) for result in given.values()]
        return Given(frozenset(given), sum(firsts))

    def share(self, prepared: Given) -> Share:
        return Share("all", 1.0)

    def can_start(self, payload: P) -> bool:
        return len(self.running) < 4

    def start(self, payload: P, prepared: Given) -> Row[P]:
        if missing := [recipe for recipe in payload.needs() if recipe.name not in self.holds | prepared.names]:
            raise InputsMissing(missing)
        row = Row(payload, prepared.total)
        self.running.append(row)
        self.started.append(payload)
        return row

    def suspend(self, row: Row[P]) -> int:
        return row.steps

    def resume(self, payload: P, prepared: Given, suspended: int) -> Row[P]:
        row = self.start(payload, prepared)
        row.steps = suspended
        return row

    def batch_key(self, row: Row[P]) -> Hashable:
        return "all"

    def cost(self, row: Row[P]) -> float:
        return 1.0

    def step(self, rows: Sequence[Row[P]]) -> Sequence[Stepped]:
        self.gate.pass_through()
        for row in rows:
            row.steps += 1
        return [self.stepped(row) for row in rows]

    def stepped(self, row: Row[P]) -> Stepped:
        raise NotImplementedError

    def finish(self, row: Row[P]) -> None:
        self.running.remove(row)


class FakeLlm(Rows[Generate]):
    """Says what its images' features add up to, then its max_tokens and seed, a word a step."""

    def stepped(self, row: Row[Generate]) -> Stepped:
        sampling = row.payload.sampling
        word = [f"{row.given:g}", str(sampling.max_tokens), str(sampling.seed)][row.steps - 1]
        if row.steps < 3:
            return Stepped((TokenDelta(f"{word} ", 1),))
        return Stepped((TokenDelta(word, 1), GenerationEnd("stop", 3)), done=True)


class SayingLlm(Rows[Generate]):
    """Says what it was given to say, a piece a step."""

    def __init__(self, pieces: Sequence[str], reason: str = "stop") -> None:
        super().__init__()
        self.pieces, self.reason = pieces, reason

    def stepped(self, row: Row[Generate]) -> Stepped:
        if row.steps <= len(self.pieces):
            return Stepped((TokenDelta(self.pieces[row.steps - 1], 1),))
        return Stepped((GenerationEnd(self.reason, row.steps),), done=True)


class FakeDenoiser(Rows[Denoise]):
    """Its latents are what its inputs add up to."""

    def stepped(self, row: Row[Denoise]) -> Stepped:
        payload = row.payload
        latents = Latents(np.full((4, 2, 2), row.given, np.float32))
        events: list[object] = [DenoiseProgress(row.steps, payload.steps)]
        if row.steps in payload.preview_steps:
            events.append(DenoisePreview(row.steps, latents))
        done = row.steps == payload.steps
        return Stepped((*events, *([DenoiseEnd(latents)] if done else [])), done=done)
