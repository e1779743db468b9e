"""What a payload's prompt is, whatever is at hand for it: its tokens as a slot holds them, its images' places, its pages' names.

Decides that the same prompt is read once: a host asks for its pages, then for its needs, and prepares it. Keeps nothing else of a
payload, whose images are large. Pure.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from stages.llm.messages import Generate
from stages.llm.model.slot_table import SlotContents, SlotImage
from stages.llm.pages.naming import PageNaming

MAX_RECENT = 64


@dataclass(frozen=True, slots=True)
class ReadPrompt:
    """`tokens`: an image's placeholder that the vocabulary doesn't have is 0, as it is never looked at; behind the prompt's own
    `num_prompt` stands what was answered so far. `images`: their grids are not known. `chain`: the names of its beginnings, page by page.
    `is_scored`: all of its tokens are to be computed, since it is asked how likely they were."""

    salt: str = field(repr=False)
    tokens: tuple[int, ...]
    images: tuple[SlotImage, ...]
    chain: tuple[str, ...]
    num_prompt: int
    is_scored: bool = False

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.tokens[: self.num_prompt]

    @property
    def page_names(self) -> tuple[str, ...]:
        return self.chain[1:]

    def contents(self) -> SlotContents:
        return SlotContents(self.salt, list(self.tokens), self.images, chain=list(self.chain), may_reuse=not self.is_scored)


_Key = tuple[str, tuple[int, ...], tuple[int, ...], tuple[SlotImage, ...], bool]


@dataclass(frozen=True, slots=True)
class PromptReader:
    """Of one model, with `num_tokens` in its vocabulary. Any thread."""

    num_tokens: int
    naming: PageNaming
    _recent: OrderedDict[_Key, ReadPrompt] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, payload: Generate) -> ReadPrompt:
        images = tuple(SlotImage(span.offset, span.length, span.features.name) for span in payload.images)
        key = payload.salt, payload.token_ids, payload.so_far.token_ids, images, _is_scored(payload)
        with self._lock:
            if (known := self._recent.get(key)) is not None:
                return known
        read = self._read(payload, images)
        with self._lock:
            self._recent[key] = read
            if len(self._recent) > MAX_RECENT:
                self._recent.popitem(last=False)
        return read

    def _read(self, payload: Generate, images: tuple[SlotImage, ...]) -> ReadPrompt:
        tokens = list(payload.token_ids)
        for image in payload.images:
            span = slice(image.offset, image.offset + image.length)
            tokens[span] = [token if token < self.num_tokens else 0 for token in tokens[span]]
        tokens += payload.so_far.token_ids
        chain: list[str] = []
        self.naming.extend(chain, payload.salt, tokens, images)
        return ReadPrompt(payload.salt, tuple(tokens), images, tuple(chain), len(payload.token_ids), _is_scored(payload))


def _is_scored(payload: Generate) -> bool:
    """Nothing is told of the first token."""
    return payload.sampling.prompt_logprobs is not None and payload.so_far.num_scored + 1 < len(payload.token_ids)
