"""A tiny LLM, and what tests ask it."""

from pathlib import Path
from typing import Any

import numpy as np

from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.llm.llm import Llm
from stages.llm.messages import Generate, ImageSpan, Sampling
from stages.llm.settings import LlmSettings
from stages.vision.messages import VisionFeatures
from tests.stages.llm.driving import recipe

PROMPT = tuple(range(10, 40))


def load(folder: Path, num_slots: int = 4, context: int = 128, chunk: int = 16) -> Llm:
    return Llm.load(resolve(Source(folder=str(folder))), LoadOptions(), LlmSettings(num_slots, context, chunk))


def generate(prompt: tuple[int, ...] = PROMPT, max_tokens: int = 8, salt: str = "", **settings: object) -> Generate:
    defaults: dict[str, Any] = {"temperature": 0.0, "logit_bias": {2: -100.0}}
    sampling = Sampling(max_tokens=max_tokens, **(defaults | settings))
    return Generate(prompt, sampling, salt=salt)


def with_image(offset: int, length: int, prompt: tuple[int, ...] = PROMPT, max_tokens: int = 4, **settings: Any) -> Generate:
    """Features named "x" stand at `offset`."""
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0, **settings)
    return Generate(prompt, sampling, (ImageSpan(offset, length, recipe("x")),))


def image_of(seed: int, rows: int = 4) -> VisionFeatures:
    return VisionFeatures(np.random.default_rng(seed).standard_normal((rows, 48)).astype(np.float32))
