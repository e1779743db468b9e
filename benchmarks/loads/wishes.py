"""What painters are asked for: wishes with mixed steps, guidance and seeds. Pure; the same seed gives the same wishes.

Every sentence is another one, so that no side profits from having seen it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from demo.sentences import wording
from demo.world import random_facts

MIN_STEPS, MAX_STEPS = 10, 50
GUIDANCE = 3.0


@dataclass(frozen=True, slots=True)
class Wish:
    """`guidance` 1.0: without classifier-free guidance, one model row a step; over that, two."""

    prompt: str
    steps: int
    guidance: float
    seed: int

    @property
    def num_model_rows(self) -> int:
        return 2 if self.guidance > 1 else 1


def wishes(count: int, *, seed: int) -> list[Wish]:
    """Steps uniform from 10 to 50; every other wish is guided, as near as `count` allows, in an order by lot."""
    source = random.Random(seed)
    prompts: dict[str, None] = {}
    while len(prompts) < count:
        prompts[wording(random_facts(source), source)] = None
    guidance = [GUIDANCE if index % 2 == 0 else 1.0 for index in range(count)]
    source.shuffle(guidance)
    return [
        Wish(prompt, source.randint(MIN_STEPS, MAX_STEPS), scale, source.getrandbits(31))
        for prompt, scale in zip(prompts, guidance, strict=True)
    ]
