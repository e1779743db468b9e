"""The demo world: what a scene is, how one is drawn by lot, and which scenes are held out of training.

Decides the vocabulary (backgrounds, colours, shapes, relations), the sizes and places shapes may take, and the split. Knows
nothing of pixels beyond the frame's size (`demo.drawing`), of wordings beyond the canonical sentence (`demo.sentences`), or of
models. Pure: the same random generator gives the same scenes everywhere.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from enum import StrEnum

SIZE = 64
DESCRIBE = "Describe the picture."
HELD_OUT_SHARE = 10  # one in this many facts, and one in this many wordings, is never trained on

Rgb = tuple[int, int, int]

BACKGROUNDS: dict[str, Rgb] = {
    "gray": (150, 150, 150),
    "cyan": (150, 220, 230),
    "pink": (250, 190, 210),
    "beige": (235, 220, 190),
}
COLOURS: dict[str, Rgb] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 210, 40),
    "purple": (140, 50, 180),
    "orange": (245, 140, 30),
    "black": (20, 20, 20),
    "white": (250, 250, 250),
}
KINDS = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring")

_ONE_RADIUS = (11.0, 17.0)
_TWO_RADIUS = (9.0, 13.0)
_MARGIN = 1.0
_GAP = 3.0
_MISALIGNMENT = 6.0


class Relation(StrEnum):
    """How the first of two shapes lies to the second; the words of the canonical sentence."""

    LEFT = "to the left of"
    ABOVE = "above"


@dataclass(frozen=True, slots=True)
class Thing:
    """A coloured shape, wherever it is."""

    colour: str
    kind: str

    def __str__(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is said about an image: its background, its one or two things, and how they lie.

    With two things the first is the left or the upper one, so that one arrangement has one canonical sentence.
    """

    background: str
    things: tuple[Thing, ...]
    relation: Relation | None = None

    def canonical(self) -> str:
        """The canonical sentence, such as "a green star above a white heart on a beige background"."""
        first = with_article(str(self.things[0]))
        rest = f" {self.relation} {with_article(str(self.things[1]))}" if self.relation else ""
        return f"{first}{rest} on a {self.background} background"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a shape's centre is and how far it reaches, in pixels of the 64 x 64 frame."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Facts, and a place for each thing."""

    facts: Facts
    places: tuple[Place, ...]


def with_article(noun: str) -> str:
    """The noun behind "a" or "an"."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def is_held_out(scene: Scene | Facts) -> bool:
    """Whether these facts are kept out of every training set; decided by a hash of the canonical sentence."""
    facts = scene.facts if isinstance(scene, Scene) else scene
    return hash_share(facts.canonical()) == 0


def hash_share(text: str) -> int:
    """Which of `HELD_OUT_SHARE` equal shares a text falls into, the same on every machine."""
    digest = hashlib.sha256(" ".join(text.lower().split()).encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_SHARE


def random_facts(rng: random.Random, num_things: int | None = None) -> Facts:
    """Facts by lot; one or two different things (two, four times in five, unless told)."""
    if num_things is None:
        num_things = 1 if rng.random() < 0.2 else 2
    background = rng.choice(list(BACKGROUNDS))
    first = _random_thing(rng)
    if num_things == 1:
        return Facts(background, (first,))
    second = _random_thing(rng)
    while second == first:
        second = _random_thing(rng)
    return Facts(background, (first, second), rng.choice(list(Relation)))


def place(facts: Facts, rng: random.Random) -> Scene:
    """Places for these facts by lot: inside the frame, apart, and plainly in their relation."""
    if facts.relation is None:
        radius = rng.uniform(*_ONE_RADIUS)
        return Scene(facts, (Place(_within(rng, radius), _within(rng, radius), radius),))
    first, second = rng.uniform(*_TWO_RADIUS), rng.uniform(*_TWO_RADIUS)
    apart = first + second + _GAP
    start = rng.uniform(first + _MARGIN, SIZE - _MARGIN - second - apart)
    end = rng.uniform(start + apart, SIZE - _MARGIN - second)
    across = _within(rng, first)
    lowest, highest = second + _MARGIN, SIZE - second - _MARGIN
    beside = min(max(across + rng.uniform(-_MISALIGNMENT, _MISALIGNMENT), lowest), highest)
    if facts.relation is Relation.LEFT:
        return Scene(facts, (Place(start, across, first), Place(end, beside, second)))
    return Scene(facts, (Place(across, start, first), Place(beside, end, second)))


def compose(facts: Facts, rng: random.Random) -> Scene:
    """Places as a painter chooses them: near the middle of the frame, or of its halves. What the painter is trained on."""
    middle = SIZE / 2
    if facts.relation is None:
        return Scene(facts, (Place(middle + rng.uniform(-3, 3), middle + rng.uniform(-3, 3), rng.uniform(13, 16)),))
    near, far = SIZE / 4 + 0.5 + rng.uniform(-1, 1), SIZE * 3 / 4 - 0.5 + rng.uniform(-1, 1)
    across, beside = middle + rng.uniform(-2, 2), middle + rng.uniform(-2, 2)
    first, second = rng.uniform(11.5, 13), rng.uniform(11.5, 13)
    if facts.relation is Relation.LEFT:
        return Scene(facts, (Place(near, across, first), Place(far, beside, second)))
    return Scene(facts, (Place(across, near, first), Place(beside, far, second)))


def random_scene(rng: random.Random, *, held_out: bool, num_things: int | None = None) -> Scene:
    """A scene by lot from one side of the split."""
    while True:
        facts = random_facts(rng, num_things)
        if is_held_out(facts) == held_out:
            return place(facts, rng)


def _random_thing(rng: random.Random) -> Thing:
    return Thing(rng.choice(list(COLOURS)), rng.choice(KINDS))


def _within(rng: random.Random, radius: float) -> float:
    return rng.uniform(radius + _MARGIN, SIZE - radius - _MARGIN)
