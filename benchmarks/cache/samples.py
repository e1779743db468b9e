"""What is measured: chats, what was to be remembered of them, and what had happened to it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COLD, AGAIN, SLOTS_LOST, MEMORY_LOST = "cold", "again", "slots overwritten", "memory overwritten"
KILLED, ELSEWHERE = "after kill -9", "on another replica"
ALONE, PAIRED = "what follows, alone", "again, right after what follows alone"
BEFORE = "what follows, alone, before memory overwritten"
"""Situations."""

OURS, TWO, VLLM = "Triptych", "Triptych, two replicas", "vLLM (CPU build)"
"""Sides, one chat at a time."""

IMAGE = "image"
SHORT, LONG = 256, 1500

REMEMBERS, FORGETS = "remembers", "remembers nothing"
"""Sides under load."""

PROMPTS, IMAGES, NEW = "system prompts", "images", "all new"


def tokens(count: int) -> str:
    """What a chat is about that begins with so many tokens of system prompt."""
    return f"{count} tokens"


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer. `seconds` until all of it was there, which is its first token where one was asked for. `came_from`: where the beginning
    of the prompt was remembered, `encoder`: what the image encoder did ("": nobody tells). `bytes_moved`: of keys and values."""

    seconds: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    came_from: str = ""
    encoder: str = ""
    replica: str = ""
    bytes_moved: int = 0
    text: str = ""

    @property
    def num_computed(self) -> int:
        """Tokens of the prompt."""
        return self.prompt_tokens - self.cached_tokens


@dataclass(frozen=True, slots=True)
class Sample:
    """One chat, alone. Those of one `round` are about the same."""

    side: str
    about: str
    situation: str
    round: int
    asked: Asked


@dataclass(frozen=True, slots=True)
class Run:
    """One load. `reuse`: as it was asked for; `reused`: as it came out. `encoded`: images that the encoder computed."""

    side: str
    about: str
    reuse: float
    reused: float
    turn: int
    wall_s: float
    asked: Sequence[Asked]
    encoded: float

    @property
    def per_s(self) -> float:
        return len(self.asked) / self.wall_s

    @property
    def tokens_saved(self) -> float:
        """The share of all prompts' tokens that the LLM did not compute."""
        return sum(one.cached_tokens for one in self.asked) / sum(one.prompt_tokens for one in self.asked)
