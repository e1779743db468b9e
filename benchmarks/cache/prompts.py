"""Chats with a beginning of an exact number of tokens, the same for some and unlike every other, and images that nobody has seen.

Decides the words. Knows the tokenizer of the model that is asked, and no server.
"""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from demo.drawing import draw
from demo.measuring.measure import held_out_scenes
from pipelines.jobs import Message, TextPart
from pipelines.prompts.prompt import PromptBuilder
from stages.checkpoints.checkpoint import Source, resolve

CHAT = "/v1/chat/completions"
Body = Mapping[str, object]

_TEXT = """
time year people way day man thing woman life child world school state family student group country problem hand part place case
week company system program question work government number night point home water room mother area money story fact month lot
right study book eye job word business issue side kind head house service friend father power hour game line end member law car
"""
_WORDS = _TEXT.split()
"""Each one token with the space before it."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """A system message, and how many tokens of a chat with it are the same whatever the user says."""

    text: str
    num_tokens: int

    def body(self, model: str, question: str, num_tokens: int = 1) -> Body:
        """An OpenAI chat request for so many tokens of answer, at most."""
        messages = [{"role": "system", "content": self.text}, {"role": "user", "content": question}]
        return _body(model, messages, num_tokens)


class Beginnings:
    """Makes them, of the demo's language model."""

    def __init__(self) -> None:
        self._prompts = PromptBuilder.load(resolve(Source(demo="smollm2")))

    def make(self, num_tokens: int, number: int) -> Beginning:
        """Unlike that of every other number from its first words on."""
        source = random.Random(number)
        first = [_WORDS[number // len(_WORDS) ** place % len(_WORDS)] for place in range(4)]
        words = [*first, *source.choices(_WORDS, k=num_tokens)]
        num_words = num_tokens - self._shared(words[:4]) + 4
        if num_words < len(first):
            raise ValueError(f"{num_tokens} tokens are fewer than those of a chat with {len(first)} words")
        found = Beginning(_text(words[:num_words]), self._shared(words[:num_words]))
        if found.num_tokens != num_tokens:
            raise RuntimeError(f"a beginning of {found.num_tokens} tokens, where {num_tokens} were wanted")
        return found

    def question(self, beginning: Beginning, num_tokens: int, number: int) -> str:
        """So long that with it the chat has `num_tokens` beyond its beginning, unlike every other number's from its first word on."""
        words = [_WORDS[number % len(_WORDS)], *random.Random(number).choices(_WORDS, k=num_tokens)]
        one = self._count(beginning.text, words[0]) - beginning.num_tokens
        return " ".join(words[: 1 + max(0, num_tokens - one)])

    def _shared(self, words: list[str]) -> int:
        text = _text(words)
        one, other = (self._ids(text, question) for question in ("Yes", "No"))
        return next(index for index, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])

    def _count(self, system: str, question: str) -> int:
        return len(self._ids(system, question))

    def _ids(self, system: str, question: str) -> tuple[int, ...]:
        messages = (Message("system", (TextPart(system),)), Message("user", (TextPart(question),)))
        return self._prompts.build(messages).token_ids


def _text(words: list[str]) -> str:
    return " ".join(words)


def about_image_at(model: str, address: str, question: str, num_tokens: int = 1) -> Body:
    """An OpenAI chat request about an image."""
    content: list[Any] = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": question}]
    return _body(model, [{"role": "user", "content": content}], num_tokens)


def image_addresses(count: int, seed: int) -> list[str]:
    """Images as data URLs, no two the same."""
    found = []
    for scene in held_out_scenes(count, seed, distinct=True):
        file = io.BytesIO()
        draw(scene).save(file, format="PNG")
        found.append(f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}")
    return found


def _body(model: str, messages: list[dict[str, Any]], num_tokens: int) -> Body:
    return {"model": model, "messages": messages, "max_tokens": num_tokens, "temperature": 0}
