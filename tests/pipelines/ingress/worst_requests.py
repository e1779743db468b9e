"""The most expensive request that each route allows, and a way to make it without a client that costs as much itself."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from fastapi import FastAPI
from PIL import Image
from starlette.types import Message

from pipelines.context import RequestContext
from pipelines.jobs import (
    ChatEvent,
    ChatJob,
    ChatPipeline,
    ChatStarted,
    ChoiceEvents,
    CompleteJob,
    CompletionEvent,
    Embedded,
    EmbedJob,
    EmbedPipeline,
    PaintEvent,
    PaintImage,
    PaintJob,
    PaintPipeline,
    PlainPrompt,
    PromptsRead,
    ReadText,
    TextPipeline,
    TokenizerNote,
)
from stages.contract.item import StageMetrics
from stages.llm.messages import GenerationEnd, PromptLogprobs, TokenDelta, TokenLogprob
from tests.pipelines.ingress.fakes import CHAT, EMBED, PAINT, FakeService
from tests.pipelines.ingress.surface import data_url

WIDTH = 4096  # of the vectors
SIDE = 1280  # of the images
NUM_TOKENS = 1000
CHUNK_BYTES = 64 * 1024  # what comes at once from a socket


class LargeService(FakeService):
    """What it answers is as large as it may be, and there already."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        self.vectors = tuple(rng.random((256, WIDTH), dtype=np.float32))
        top = tuple(TokenLogprob(rank, f" word{rank}", b" word", -1.5 - rank) for rank in range(20))
        self.tokens_said = tuple(
            TokenDelta(" word", 1, (TokenLogprob(1, " word", b" word", -0.5, top),)) for _ in range(NUM_TOKENS)
        )

    def chat_pipeline(self, model: str) -> ChatPipeline:
        return LargeChat(self)

    def text_pipeline(self, model: str) -> TextPipeline:
        return LargeTexts(self)

    def paint_pipeline(self, model: str) -> PaintPipeline:
        return LargePainter(self)

    def embed_pipeline(self, model: str) -> EmbedPipeline:
        return LargeEmbedder(self)

    async def stage_metrics(self) -> Sequence[StageMetrics]:
        counters = {f"counter{index}_total": 0.5 for index in range(40)}
        cards = await self.stage_cards()
        return [
            StageMetrics(card.name, f"replica-{index}", card.device, card.dtype, counters)
            for card in cards
            for index in range(20)
        ]


@dataclass(frozen=True, slots=True)
class LargeChat:
    """All tokens of a choice come together, as they do for a reader who was slow."""

    service: LargeService

    async def chat(self, job: ChatJob, context: RequestContext) -> AsyncIterator[ChatEvent]:
        tokens = self.service.tokens_said
        if job.sampling.logprobs is None:
            tokens = tuple(replace(token, logprobs=()) for token in tokens)
        yield ChatStarted(1)
        for index in range(job.n):
            yield ChoiceEvents(index, (*tokens, GenerationEnd("stop", len(tokens))))

    async def token_ids(self, job: ChatJob) -> Sequence[int]:
        return range(100_000)


@dataclass(frozen=True, slots=True)
class LargeTexts:
    """All that is told of a prompt comes together."""

    service: LargeService

    async def complete(self, job: CompleteJob, context: RequestContext) -> AsyncIterator[CompletionEvent]:
        yield PromptsRead(tuple([await self.read(prompt) for prompt in job.prompts]))
        tokens = self.service.tokens_said
        of_prompt = PromptLogprobs(tuple(token.logprobs[0] for token in tokens))
        for index in range(len(job.prompts) * job.n):
            yield ChoiceEvents(index, (of_prompt, *tokens[: job.sampling.max_tokens], GenerationEnd("stop", len(tokens))))

    async def read(self, prompt: PlainPrompt) -> ReadText:
        return ReadText((1,), "word") if isinstance(prompt.content, str) else ReadText(prompt.content, "word" * 1000)

    async def text_of(self, token_ids: Sequence[int]) -> str:
        return "word " * len(token_ids)

    async def spelled(self, token_ids: Sequence[int]) -> Sequence[str]:
        return ["word"] * len(token_ids)

    def tokenizer(self) -> TokenizerNote:
        return TokenizerNote()


@dataclass(frozen=True, slots=True)
class LargePainter:
    service: LargeService

    async def forecast(self, job: PaintJob, context: RequestContext) -> float | None:
        return None

    async def paint(self, job: PaintJob, context: RequestContext) -> AsyncIterator[PaintEvent]:
        for index in range(job.n):
            yield PaintImage(index, self.service.pixels, 1)


@dataclass(frozen=True, slots=True)
class LargeEmbedder:
    service: LargeService

    async def embed(self, job: EmbedJob, context: RequestContext) -> Embedded:
        return Embedded(self.service.vectors[: len(job.inputs)], 1)


@dataclass(frozen=True, slots=True)
class Asked:
    path: str
    body: bytes = field(default=b"", repr=False)
    content_type: str = "application/json"


@dataclass(slots=True)
class Answer:
    status: int = 0
    num_bytes: int = 0


async def ask(app: FastAPI, asked: Asked) -> Answer:
    """Through ASGI, as from a socket: the body comes in chunks; of the answer only the size is kept."""
    answer, chunks = Answer(), _chunks(asked.body)

    async def receive() -> Message:
        for message in chunks:
            return message
        await asyncio.Event().wait()  # the client waits, too
        raise AssertionError

    async def send(message: Message) -> None:
        answer.status = message.get("status", answer.status)
        answer.num_bytes += len(message.get("body", b""))

    headers = {"content-type": asked.content_type, "content-length": str(len(asked.body)), "host": "127.0.0.1"}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST" if asked.body else "GET",
        "scheme": "http",
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    return answer


def _chunks(body: bytes) -> Iterator[Message]:
    for start in range(0, max(len(body), 1), CHUNK_BYTES):
        end = start + CHUNK_BYTES
        yield {"type": "http.request", "body": body[start:end], "more_body": end < len(body)}


def noise(width: int, height: int) -> bytes:
    """A PNG as large as its pixels."""
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=0)
    return out.getvalue()


def _json(path: str, **fields: Any) -> Asked:
    return Asked(path, json.dumps(fields).encode())


def _chat(*messages: object, **fields: Any) -> Asked:
    asked = [{"role": "user", "content": content} for content in messages]
    return _json("/v1/chat/completions", model=CHAT, messages=asked, **fields)


def _image(data: bytes, detail: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(data), "detail": detail}}


def _paint(**fields: Any) -> Asked:
    return _json("/v1/images/generations", model=PAINT, prompt="a cat", size=f"{SIDE}x{SIDE}", **fields)


def _edit(path: str = "/v1/images/edits") -> Asked:
    fields = {"model": PAINT, "prompt": "a cat"}
    head = "".join(f'--b\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n' for key, value in fields.items())
    file = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n' + noise(2500, 2700)
    return Asked(path, head.encode() + file + b"\r\n--b--\r\n", "multipart/form-data; boundary=b")


def _embed(**fields: Any) -> Asked:
    return _json("/v1/embeddings", model=EMBED, input=["x" * 780] * 256, **fields)


def _complete(prompt: object, **fields: Any) -> Asked:
    return _json("/v1/completions", model=CHAT, prompt=prompt, **fields)


_PARTS = [{"type": "text", "text": "a"}] * 1000
WORST: Mapping[str, Callable[[], Asked]] = {
    "chat, most parts": lambda: _chat(*[_PARTS] * 8),
    "chat, too many parts": lambda: _chat(*[_PARTS] * 65),
    "chat, most messages": lambda: _chat(*["a" * 48] * 4096),
    "chat, longest text": lambda: _chat("\n" * 200_000),
    "chat, largest image": lambda: _chat([_image(noise(2500, 2700), "high")]),
    "chat, largest images, shrunk": lambda: _chat([_image(noise(900, 900), "low")] * 8),
    "chat, most logprobs": lambda: _chat("a", n=8, logprobs=True, top_logprobs=20),
    "chat, most logprobs, streamed": lambda: _chat("a", n=8, logprobs=True, top_logprobs=20, stream=True),
    "chat, largest schema": lambda: _chat("a", guided_json={"enum": ["é" * 15] * 4000}),
    "chat, a schema that is too large": lambda: _chat(
        "a", guided_json={"properties": {f"k{i}": {"enum": ["x" * 600] * 4} for i in range(4000)}}
    ),
    "completions, longest prompts": lambda: _complete([[1] * 1500] * 128),
    "completions, most prompts": lambda: _complete(["x" * 1500] * 128),
    "completions, most tokens": lambda: _complete([1] * 190_000),
    "completions, most logprobs": lambda: _complete(["x"] * 16, echo=True, logprobs=20),
    "completions, most logprobs, streamed": lambda: _complete(["x"] * 16, echo=True, logprobs=20, stream=True),
    "tokenize": lambda: _json("/tokenize", prompt="x " * 100_000, return_token_strs=True),
    "tokenize, a conversation": lambda: _json(
        "/tokenize", messages=[{"role": "user", "content": "a" * 48}] * 4096, return_token_strs=True
    ),
    "detokenize": lambda: _json("/detokenize", tokens=[1] * 190_000),
    "generations": lambda: _paint(n=2),
    "generations, by address": lambda: _paint(n=2, response_format="url"),
    "generations, streamed": lambda: _paint(n=2, stream=True),
    "edits": _edit,
    "edits, as JSON": lambda: _json("/v1/images/edits", prompt="a cat", images=[{"image_url": data_url(noise(2500, 2700))}]),
    "jobs": lambda: _edit("/v1/images/jobs"),
    "embeddings, numbers": _embed,
    "embeddings, base64": lambda: _embed(encoding_format="base64"),
    "models": lambda: Asked("/v1/models"),
    "metrics": lambda: Asked("/metrics"),
    "openapi": lambda: Asked("/openapi.json"),
    "the page": lambda: Asked("/"),
    "a refused body": lambda: Asked("/v1/chat/completions", b'{"a":[' + b'{"b":"c"},' * 65_000 + b"1]}"),
    "escapes": lambda: Asked("/v1/chat/completions", b'{"a":"' + b"\\u0041" * 5_000_000 + b'"}'),
}
"""The largest allowed on each route; and the largest that are refused."""
