"""Measures the demo models on what they were not trained on: held-out scenes, held-out wordings.

Decides what each score counts. Knows the models only as `Models`: their own libraries (`demo.measuring.in_process`) or a running server
(`demo.measuring.over_http`). Prints nothing and sets no bar (`demo.evaluate`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.drawing import draw
from demo.measuring.detector import describe
from demo.questions import Question, description, some_question
from demo.sentences import states_background, wording
from demo.world import DESCRIBE, Facts, Scene, random_scene

BATCH = 32  # how many questions or sentences are handed over at a time
T = TypeVar("T")


class Models(Protocol):
    """What is measured. Every method answers in the order of what it is given."""

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """CLIP embeddings [texts, width] of unit length."""
        ...

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """CLIP embeddings [images, width] of unit length."""
        ...

    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """The greedy answer to one question about each image."""
        ...

    def paint(self, sentences: Sequence[str], first_seed: int) -> list[Image.Image]:
        """An image of each sentence, with the seeds `first_seed`, `first_seed + 1` ..."""
        ...


@dataclass(frozen=True, slots=True)
class Score:
    """How many of how many were right."""

    name: str
    num_right: int
    count: int

    @property
    def share(self) -> float:
        """0 to 1; 0 where nothing was measured."""
        return self.num_right / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True)
class Painting:
    """A sentence, what it says, and what was painted from it."""

    sentence: str
    facts: Facts
    image: Image.Image

    @property
    def right(self) -> bool:
        """Whether the detector sees what the sentence says; a background that it leaves out may be any."""
        seen = describe(self.image)
        if seen is None:
            return False
        ground = self.facts.background if states_background(self.sentence) else seen.background
        return seen == Facts(ground, self.facts.things, self.facts.relation)


def held_out_scenes(count: int, seed: int, num_things: int | None = None, *, distinct: bool = False) -> list[Scene]:
    """Scenes from the held-out side; with `distinct`, no two state the same facts."""
    rng, scenes, known = random.Random(seed), list[Scene](), set[Facts]()
    while len(scenes) < count:
        scene = random_scene(rng, held_out=True, num_things=num_things)
        if not (distinct and scene.facts in known):
            known.add(scene.facts)
            scenes.append(scene)
    return scenes


def retrieval(models: Models, count: int) -> Score:
    """Text to image, top 1 among `count` distinct held-out scenes; every other text is a held-out wording."""
    scenes, rng = held_out_scenes(count, 11, distinct=True), random.Random(12)
    texts = [_text(scene.facts, rng, other=index % 2 == 1, ground=True) for index, scene in enumerate(scenes)]
    images = models.embed_images([draw(scene) for scene in scenes])
    nearest = (models.embed_texts(texts) @ images.T).argmax(axis=1)
    return Score("retrieval, top 1", int((nearest == np.arange(count)).sum()), count)


def descriptions(models: Models, count: int, num_things: int) -> Score:
    """Canonical descriptions, word for word, of held-out scenes."""
    scenes = held_out_scenes(count, 20 + num_things, num_things)
    asked = [description(scene.facts) for scene in scenes]
    name = f"description, {num_things} shape{'s' * (num_things - 1)}"
    return _answered(name, models, scenes, asked)


def answers(models: Models, count: int) -> list[Score]:
    """Questions about held-out scenes: all together, then by topic."""
    scenes, rng = held_out_scenes(count, 31), random.Random(32)
    asked = [some_question(scene.facts, rng) for scene in scenes]
    said = _ask(models, scenes, asked)
    right = [answer == question.answer for answer, question in zip(said, asked, strict=True)]
    total = Score("questions", sum(right), count)
    topics = sorted({question.topic for question in asked})
    of = {topic: [ok for ok, question in zip(right, asked, strict=True) if question.topic == topic] for topic in topics}
    return [total, *(Score(f"  about {topic}", sum(of[topic]), len(of[topic])) for topic in topics)]


def paint(models: Models, count: int, num_things: int) -> list[Painting]:
    """Paintings from held-out sentences, every other one in a held-out wording that may leave the background out."""
    rng = random.Random(41)
    facts = [scene.facts for scene in held_out_scenes(count, 40 + num_things, num_things)]
    sentences = [_text(fact, rng, other=index % 2 == 1, ground=None) for index, fact in enumerate(facts)]
    images: list[Image.Image] = []
    for batch in _batches(sentences):
        images += models.paint(batch, first_seed=1_000 + len(images))
    return [Painting(*row) for row in zip(sentences, facts, images, strict=True)]


def paintings(painted: list[Painting], num_things: int) -> Score:
    """How many paintings the detector judges right."""
    name = f"painting, {num_things} shape{'s' * (num_things - 1)}"
    return Score(name, sum(painting.right for painting in painted), len(painted))


def round_trip(models: Models, painted: list[Painting]) -> Score:
    """How many paintings of canonical sentences are described with that very sentence."""
    kept = [painting for painting in painted if painting.sentence == painting.facts.canonical()]
    said = [
        answer
        for batch in _batches(kept)
        for answer in models.answer([painting.image for painting in batch], [DESCRIBE] * len(batch))
    ]
    return Score("round trip", sum(a == p.sentence for a, p in zip(said, kept, strict=True)), len(kept))


def _text(facts: Facts, rng: random.Random, *, other: bool, ground: bool | None) -> str:
    return wording(facts, rng, held_out=True, with_background=ground) if other else facts.canonical()


def _answered(name: str, models: Models, scenes: list[Scene], asked: list[Question]) -> Score:
    said = _ask(models, scenes, asked)
    return Score(name, sum(answer == question.answer for answer, question in zip(said, asked, strict=True)), len(said))


def _ask(models: Models, scenes: list[Scene], asked: list[Question]) -> list[str]:
    said: list[str] = []
    for batch in _batches(list(zip(scenes, asked, strict=True))):
        said += models.answer([draw(scene) for scene, _ in batch], [question.text for _, question in batch])
    return said


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
