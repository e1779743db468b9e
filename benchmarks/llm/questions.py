"""What every side of the LLM's benchmarks is asked: prompts of different lengths, and questions about images of which no two are the same.
The same count gives the same questions."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Iterator

from benchmarks.llm.sides import Question
from demo.drawing import draw
from demo.measuring.measure import held_out_scenes

NUM_TOKENS = 64
TOPICS = ("the sea", "bread", "a clock", "mountains", "trains", "a garden", "winter", "glass", "birds", "music")
ASKS = ("Write about {}.", "Explain {} to a child.", "What should everybody know about {}?", "Tell a short story about {}.")


def text_questions(count: int) -> list[Question]:
    """Different prompts of different lengths, always the same ones."""
    source = random.Random(count)
    return [Question(source.choice(ASKS).format(" and ".join(source.sample(TOPICS, 1 + index % 4)))) for index in range(count)]


def image_questions(count: int) -> list[Question]:
    """A question about an image each; no two images are the same."""
    return [Question("Describe the picture.", address) for address in _addresses(count)]


def _addresses(count: int) -> Iterator[str]:
    for scene in held_out_scenes(count, 70 + count, distinct=True):
        file = io.BytesIO()
        draw(scene).save(file, format="PNG")
        yield f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
