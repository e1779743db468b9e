"""One held-out image to ask about and one held-out sentence to paint, for `make demo` and the README.

Decides nothing but which; both are from the side of the split that no model was trained on.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

from demo.drawing import draw
from demo.world import DESCRIBE, random_scene

_SEED = 20


@dataclass(frozen=True, slots=True)
class Example:
    """An image with a question and its true answer, and a sentence to paint."""

    image_png: bytes
    question: str
    answer: str
    sentence: str


def example() -> Example:
    """The same example every time."""
    rng = random.Random(_SEED)
    shown = random_scene(rng, held_out=True, num_things=2)
    painted = random_scene(rng, held_out=True, num_things=2)
    file = io.BytesIO()
    draw(shown).save(file, format="PNG")
    return Example(file.getvalue(), DESCRIBE, shown.facts.canonical(), painted.facts.canonical())
