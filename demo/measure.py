"""Measures the demo models on what they were not trained on: held-out scenes, held-out wordings.

Decides what each score counts. Knows the models only through their libraries; prints nothing and sets no bar
(`demo.evaluate`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image

from demo.answering import Answerer
from demo.detector import describe
from demo.drawing import draw
from demo.painter import GUIDANCE, NUM_STEPS, load_painter
from demo.questions import Question, description, some_question
from demo.sentences import states_background, wording
from demo.world import DESCRIBE, SIZE, Facts, Scene, random_scene
from stages.open_clip_tower import LOCAL_PREFIX
from stages.torchvision_shim import ensure_torchvision

_BATCH = 32
T = TypeVar("T")


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
    picture: Image.Image

    @property
    def right(self) -> bool:
        """Whether the detector sees what the sentence says; a background that it leaves out may be any."""
        seen = describe(self.picture)
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


@torch.no_grad()
def retrieval(weights: Path, device: torch.device, count: int) -> Score:
    """Text to picture, top 1 among `count` distinct held-out scenes; every other text is a held-out wording."""
    ensure_torchvision()
    import open_clip

    source = f"{LOCAL_PREFIX}{weights / 'clip'}"
    model, _, transform = open_clip.create_model_and_transforms(source, device=device)
    model.eval()
    scenes, rng = held_out_scenes(count, 11, distinct=True), random.Random(12)
    texts = [_text(scene.facts, rng, other=index % 2 == 1, ground=True) for index, scene in enumerate(scenes)]
    pictures = torch.stack([transform(draw(scene)) for scene in scenes]).to(device)
    image = model.encode_image(pictures, normalize=True)
    text = model.encode_text(open_clip.get_tokenizer(source)(texts).to(device), normalize=True)
    right = (text @ image.T).argmax(dim=1).cpu() == torch.arange(count)
    return Score("retrieval, top 1", int(right.sum()), count)


def descriptions(answerer: Answerer, count: int, num_things: int) -> Score:
    """Canonical descriptions, word for word, of held-out scenes."""
    scenes = held_out_scenes(count, 20 + num_things, num_things)
    asked = [description(scene.facts) for scene in scenes]
    name = f"description, {num_things} shape{'s' * (num_things - 1)}"
    return _answered(name, answerer, scenes, asked)


def answers(answerer: Answerer, count: int) -> list[Score]:
    """Questions about held-out scenes: all together, then by topic."""
    scenes, rng = held_out_scenes(count, 31), random.Random(32)
    asked = [some_question(scene.facts, rng) for scene in scenes]
    said = _ask(answerer, scenes, asked)
    right = [answer == question.answer for answer, question in zip(said, asked, strict=True)]
    total = Score("questions", sum(right), count)
    topics = sorted({question.topic for question in asked})
    of = {topic: [ok for ok, question in zip(right, asked, strict=True) if question.topic == topic] for topic in topics}
    return [total, *(Score(f"  about {topic}", sum(of[topic]), len(of[topic])) for topic in topics)]


def paint(weights: Path, device: torch.device, count: int, num_things: int) -> list[Painting]:
    """Paintings from held-out sentences, every other one in a held-out wording that may leave the background out."""
    pipeline, rng = load_painter(weights / "painter", device), random.Random(41)
    facts = [scene.facts for scene in held_out_scenes(count, 40 + num_things, num_things)]
    sentences = [_text(fact, rng, other=index % 2 == 1, ground=None) for index, fact in enumerate(facts)]
    pictures: list[Image.Image] = []
    for batch in _batches(sentences):
        pictures += _painted(pipeline, batch, first_seed=1_000 + len(pictures))
    return [Painting(*row) for row in zip(sentences, facts, pictures, strict=True)]


def paintings(painted: list[Painting], num_things: int) -> Score:
    """How many paintings the detector judges right."""
    name = f"painting, {num_things} shape{'s' * (num_things - 1)}"
    return Score(name, sum(painting.right for painting in painted), len(painted))


def round_trip(answerer: Answerer, painted: list[Painting]) -> Score:
    """How many paintings of canonical sentences are described with that very sentence."""
    kept = [painting for painting in painted if painting.sentence == painting.facts.canonical()]
    said = [
        answer
        for batch in _batches(kept)
        for answer in answerer.answer([painting.picture for painting in batch], [DESCRIBE] * len(batch))
    ]
    return Score("round trip", sum(a == p.sentence for a, p in zip(said, kept, strict=True)), len(kept))


def _painted(pipeline: Any, sentences: Sequence[str], first_seed: int) -> list[Image.Image]:
    generators = [torch.Generator().manual_seed(first_seed + index) for index in range(len(sentences))]
    found = pipeline(
        list(sentences), height=SIZE, width=SIZE, num_inference_steps=NUM_STEPS, guidance_scale=GUIDANCE, generator=generators
    )
    return list(found.images)


def _text(facts: Facts, rng: random.Random, *, other: bool, ground: bool | None) -> str:
    return wording(facts, rng, held_out=True, with_background=ground) if other else facts.canonical()


def _answered(name: str, answerer: Answerer, scenes: list[Scene], asked: list[Question]) -> Score:
    said = _ask(answerer, scenes, asked)
    return Score(name, sum(answer == question.answer for answer, question in zip(said, asked, strict=True)), len(said))


def _ask(answerer: Answerer, scenes: list[Scene], asked: list[Question]) -> list[str]:
    said: list[str] = []
    for batch in _batches(list(zip(scenes, asked, strict=True))):
        said += answerer.answer([draw(scene) for scene, _ in batch], [question.text for _, question in batch])
    return said


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
