"""A load of every kind of request at once, to the demo's models: chats that are streamed, greedy and with a seed, chats about images,
paintings, embeddings. Pure but for drawing the images.

Every request is another one, so that nothing of it is remembered; the same number gives the same request.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.cache.prompts import CHAT, about_image_at, image_addresses
from benchmarks.loads.wishes import wishes

SEE, PAINT, CLIP = "triptych-see", "triptych-paint", "triptych-clip"
IMAGES, EMBEDDINGS = "/v1/images/generations", "/v1/embeddings"


class Kind(StrEnum):
    GREEDY = "greedy stream"
    SEEDED = "seeded stream"
    IMAGE_CHAT = "chat about an image"
    PAINTING = "painting"
    EMBEDDING = "embedding"

    @property
    def is_text(self) -> bool:
        """Whether what is told are a model's tokens."""
        return self in (Kind.GREEDY, Kind.SEEDED, Kind.IMAGE_CHAT)


@dataclass(frozen=True, slots=True)
class Size:
    """`tokens`: of an answer, all of which are asked for. `steps`: of a painting."""

    tokens: int
    steps: int


@dataclass(frozen=True, slots=True)
class Request:
    """An OpenAI request. `number`: which of its kind."""

    kind: Kind
    number: int
    path: str
    body: Mapping[str, object]

    @property
    def is_streamed(self) -> bool:
        return bool(self.body.get("stream"))


def request(kind: Kind, number: int, size: Size) -> Request:
    match kind:
        case Kind.GREEDY:
            return Request(kind, number, CHAT, _chat(number, size) | {"temperature": 0})
        case Kind.SEEDED:
            return Request(kind, number, CHAT, _chat(number, size) | {"temperature": 1, "top_p": 0.9, "seed": number})
        case Kind.IMAGE_CHAT:
            (address,) = image_addresses(1, number)
            body = about_image_at(SEE, address, f"Describe picture {number}.", size.tokens)
            return Request(kind, number, CHAT, {**body, **_whole(size)})
        case Kind.PAINTING:
            (wish,) = wishes(1, seed=number)
            body = {"model": PAINT, "prompt": wish.prompt, "seed": wish.seed, "num_inference_steps": size.steps}
            return Request(kind, number, IMAGES, body | {"stream": True, "triptych": {"progress": True}})
        case Kind.EMBEDDING:
            return Request(kind, number, EMBEDDINGS, {"model": CLIP, "input": f"sentence {number} of many"})


def mixed(count: int, shares: Mapping[Kind, float], size: Size, *, seed: int, first: int = 0) -> Sequence[Request]:
    """`count` requests in an order by lot. `shares`: of each kind, in any unit. `first`: their first number."""
    kinds = random.Random(seed).choices(list(shares), weights=list(shares.values()), k=count)
    return [request(kind, first + index, size) for index, kind in enumerate(kinds)]


def _chat(number: int, size: Size) -> dict[str, object]:
    content = f"Count from {number} to {number + 200}, one number a line."
    return {"model": SEE, "messages": [{"role": "user", "content": content}]} | _whole(size)


def _whole(size: Size) -> dict[str, object]:
    """As many tokens as are asked for, whatever they say."""
    return {"max_tokens": size.tokens, "ignore_eos": True, "stream": True}
