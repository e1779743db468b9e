"""A whole `Service` without models: what it answers follows from the request alone, and everything it is asked is noted.

Implements `pipelines.jobs.Service` as the real one does, errors, previews, receipts, cached tokens and cancellation included.
A test makes it wait or fail by handing it a `Gate` or an error. One word is one token.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

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
    ImagePart,
    ModelCard,
    PaintEvent,
    PaintImage,
    PaintJob,
    PaintPipeline,
    PaintProgress,
    PlainPrompt,
    PromptsRead,
    ReadText,
    StageCard,
    TextPart,
    TextPipeline,
    TokenizerNote,
)
from pipelines.tools.asked import ToolChoice
from pipelines.tools.events import AnswerEvent
from stages.contract.errors import InvalidRequest, UnknownModel
from stages.contract.item import StageMetrics, StageReceipt
from stages.llm.messages import GenerationEnd, PromptLogprobs, Sampling, TokenDelta, TokenLogprob

CHAT, PAINT, EMBED = "fake/chat", "fake-painter", "fake-clip"
PAINT_PARTS = ("text_encoder", "denoiser", "vae_decoder", "vae_encoder")
DEFAULTS = Sampling(512, temperature=0.6, top_k=20)  # of the chat model
WIDTH = 8  # of the embeddings
SIDE = 32  # of images, in pixels, where no size is asked for


@dataclass(slots=True)
class Gate:
    """Where the service waits: after `after` events, until `open` is set. `reached` and `cancelled` tell the test how it
    went."""

    after: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def pass_through(self) -> None:
        self.reached.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@dataclass(slots=True)
class Trouble:
    """What is to go wrong: `error` is raised after `after` events."""

    error: Exception
    after: int = 0


@dataclass(slots=True)
class FakeService:
    """`jobs` and `contexts` hold what was asked, in order. `edits`: whether its painter has a vae encoder."""

    gate: Gate | None = None
    trouble: Trouble | None = None
    stages_ready: bool = True
    stages_error: Exception | None = None
    edits: bool = True
    jobs: list[ChatJob | CompleteJob | PaintJob | EmbedJob] = field(default_factory=list)
    contexts: list[RequestContext] = field(default_factory=list)
    running: int = 0
    seen_prompts: set[str] = field(default_factory=set)
    words: list[str] = field(default_factory=list)  # by token
    script: Sequence[AnswerEvent] = ()  # what a chat says in place of what it was told

    def models(self) -> Sequence[ModelCard]:
        return (
            ModelCard(
                CHAT,
                "image_text",
                (f"{CHAT}.vision_encoder", f"{CHAT}.llm"),
                1_700_000_000,
                256,
                accepts_images=True,
                sampling=DEFAULTS,
                tool_choices=(ToolChoice.AUTO, ToolChoice.REQUIRED),
            ),
            ModelCard(
                PAINT,
                "text_to_image",
                tuple(f"{PAINT}.{part}" for part in PAINT_PARTS[: 4 if self.edits else 3]),
                1_700_000_000,
                default_steps=8,
                max_steps=50,
                default_guidance_scale=4.0,
                default_strength=0.8 if self.edits else None,
                samplers=("euler", "ddim"),
                max_prompt_tokens=600,
                accepts_images=self.edits,
            ),
            ModelCard(EMBED, "embed", (f"{EMBED}.embedder",), 1_700_000_000),
        )

    def chat_pipeline(self, model: str) -> ChatPipeline:
        self._require(model, CHAT, "answer chat requests")
        return FakeChat(self)

    def text_pipeline(self, model: str) -> TextPipeline:
        self._require(model, CHAT, "complete texts")
        return FakeTexts(self)

    def paint_pipeline(self, model: str) -> PaintPipeline:
        self._require(model, PAINT, "paint images")
        return FakePainter(self)

    def embed_pipeline(self, model: str) -> EmbedPipeline:
        self._require(model, EMBED, "embed")
        return FakeEmbedder(self)

    async def stage_cards(self) -> Sequence[StageCard]:
        if self.stages_error is not None:
            raise self.stages_error
        return [
            StageCard(
                name=name,
                kind=name.rpartition(".")[2],
                deployment=name.replace(".", "-"),
                device="cpu",
                replicas=1,
                ready=self.stages_ready or not name.endswith(".denoiser"),
                loader="fake",
                source="demo:fake",
            )
            for card in self.models()
            for name in card.stages
        ]

    async def stage_metrics(self) -> Sequence[StageMetrics]:
        if self.stages_error is not None:
            raise self.stages_error
        counters = {"queued": 1.0, "running": 2.0, "items_total": 3.0, "device_seconds_total": 0.25}
        return [
            StageMetrics(card.name, "replica-1", card.device, card.dtype, dict(counters), pool=card.deployment)
            for card in await self.stage_cards()
        ]

    @asynccontextmanager
    async def work(self, job: ChatJob | CompleteJob | PaintJob | EmbedJob, context: RequestContext) -> AsyncIterator["Events"]:
        """Around one request: notes it, and knows when it ends."""
        self.jobs.append(job)
        self.contexts.append(context)
        self.running += 1
        try:
            yield Events(self.gate, self.trouble)
        finally:
            self.running -= 1

    def tokens(self, text: str) -> tuple[int, ...]:
        """Every word gets a number when it is first seen."""
        words = [word if at == 0 else f" {word}" for at, word in enumerate(text.split(" "))]
        self.words += [word for word in dict.fromkeys(words) if word not in self.words]
        return tuple(map(self.words.index, words))

    def _require(self, model: str, served: str, what: str) -> None:
        ids = [card.id for card in self.models()]
        if model not in ids:
            raise UnknownModel(f"model {model!r} is not served; models that {what}: {served}", param="model")
        if model != served:
            raise InvalidRequest(f"model {model!r} does not {what}; models that do: {served}", param="model")


@dataclass(slots=True)
class Events:
    """Counts the events of one request, and waits or fails where the test said so."""

    gate: Gate | None
    trouble: Trouble | None
    count: int = 0

    async def tick(self) -> None:
        """Before every event, and once after the last."""
        if self.trouble is not None and self.count == self.trouble.after:
            raise self.trouble.error
        if self.gate is not None and self.count == self.gate.after:
            await self.gate.pass_through()
        self.count += 1
        await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class FakeChat:
    service: FakeService

    async def chat(self, job: ChatJob, context: RequestContext) -> AsyncIterator[ChatEvent]:
        """Says what it was told, word by word."""
        async with self.service.work(job, context) as events:
            prompt = spoken(job)
            prompt_tokens = len(prompt.split())
            cached_tokens = max(prompt_tokens - 1, 0) if f"{context.salt}{prompt}" in self.service.seen_prompts else 0
            self.service.seen_prompts.add(f"{context.salt}{prompt}")
            await events.tick()
            yield ChatStarted(prompt_tokens)
            for said in self.service.script:
                await events.tick()
                yield ChoiceEvents(0, (said,))
            words = answer_words(job) if not self.service.script else []
            limit = job.sampling.max_tokens
            for word in words[:limit]:
                for index in range(job.n):
                    await events.tick()
                    yield ChoiceEvents(index, (TokenDelta(word, 1, _logprobs(job.sampling.logprobs, word)),))
            for index in range(job.n if not self.service.script else 0):
                await events.tick()
                reason = "length" if len(words) > limit else "stop"
                yield ChoiceEvents(index, (GenerationEnd(reason, min(len(words), limit), cached_tokens),))
            for stage in ("vision_encoder", "llm"):
                context.add(_receipt(f"{CHAT}.{stage}"))
            await events.tick()

    async def token_ids(self, job: ChatJob) -> Sequence[int]:
        return self.service.tokens(spoken(job))


@dataclass(frozen=True, slots=True)
class FakeTexts:
    """Goes on with a prompt by saying it again, in capitals, and ends; a word, with the blank before it, is a token."""

    service: FakeService

    async def complete(self, job: CompleteJob, context: RequestContext) -> AsyncIterator[CompletionEvent]:
        async with self.service.work(job, context) as events:
            read = [await self.read(prompt) for prompt in job.prompts]
            await events.tick()
            yield PromptsRead(tuple(read))
            for index in range(len(read) * job.n):
                for heard in self._said(job, read[index // job.n]):
                    await events.tick()
                    yield ChoiceEvents(index, heard)
            context.add(_receipt(f"{CHAT}.llm"))
            await events.tick()

    def _said(self, job: CompleteJob, read: ReadText) -> Iterator[Sequence[PromptLogprobs | TokenDelta | GenerationEnd]]:
        words, limit = [self.service.words[token] for token in read.token_ids], job.sampling.max_tokens
        for word in words[1:] if job.sampling.prompt_logprobs is not None else ():
            yield [PromptLogprobs(_logprobs(job.sampling.prompt_logprobs, word))]
        for word in words[:limit]:
            yield [TokenDelta(word.upper(), 1, _logprobs(job.sampling.logprobs, word.upper()))]
        ends = _logprobs(job.sampling.logprobs, "<end>") if len(words) < limit else ()
        reason = "stop" if len(words) < limit else "length"
        yield [GenerationEnd(reason, min(len(words) + 1, limit), stop_token=ends[0] if ends else None)]

    async def read(self, prompt: PlainPrompt) -> ReadText:
        if not isinstance(prompt.content, str):
            return ReadText(
                tuple(prompt.content), await self.text_of(prompt.content), first=self.service.words[prompt.content[0]]
            )
        ids = self.service.tokens(prompt.content)
        return ReadText(ids, prompt.content, first=self.service.words[ids[0]])

    async def text_of(self, token_ids: Sequence[int]) -> str:
        for place, token in enumerate(token_ids):
            if token >= len(self.service.words):
                raise InvalidRequest(f"tokens[{place}] is {token}, which is no word", param=f"tokens[{place}]")
        return "".join(self.service.words[token] for token in token_ids)

    async def spelled(self, token_ids: Sequence[int]) -> Sequence[str]:
        return [self.service.words[token] for token in token_ids]

    def tokenizer(self) -> TokenizerNote:
        return TokenizerNote(end="<end>", chat_template="{{ messages }}")


@dataclass(frozen=True, slots=True)
class FakePainter:
    service: FakeService

    async def forecast(self, job: PaintJob, context: RequestContext) -> float | None:
        """Of a prompt that is "impossible", and of a side over 4096, it is none."""
        if job.prompt == "impossible":
            raise InvalidRequest("prompt: nobody can paint that", param="prompt")
        if max(job.width or SIDE, job.height or SIDE) > 4096:
            raise InvalidRequest(f"width {job.width} or height {job.height} is over 4096", param="width")
        return 3.0

    async def paint(self, job: PaintJob, context: RequestContext) -> AsyncIterator[PaintEvent]:
        """A gradient in a colour that follows from the prompt and the seed; of a given image it keeps the size."""
        if job.init is not None and not self.service.edits:
            raise InvalidRequest("this model edits no images: it has no vae_encoder", param=job.init.image.param)
        async with self.service.work(job, context) as events:
            steps = job.steps or 8
            seed = 7 if job.seed is None else job.seed
            previews = {steps * (count + 1) // (job.partial_images + 1): count for count in range(job.partial_images)}
            indexes = range(job.first, job.first + job.n)
            for step in range(1, steps + 1):
                for index in indexes:
                    await events.tick()
                    yield PaintProgress(index, step, steps)
                    if step in previews:
                        await events.tick()
                        yield PaintImage(index, gradient(job, seed + index, step / steps), seed + index, previews[step])
            for stage in PAINT_PARTS[: 3 if job.init is None else 4]:
                context.add(_receipt(f"{PAINT}.{stage}"))
            for index in indexes:
                await events.tick()
                yield PaintImage(index, gradient(job, seed + index, 1.0), seed + index)
            await events.tick()


@dataclass(frozen=True, slots=True)
class FakeEmbedder:
    service: FakeService

    async def embed(self, job: EmbedJob, context: RequestContext) -> Embedded:
        """Unit vectors that follow from the inputs' bytes."""
        async with self.service.work(job, context) as events:
            await events.tick()
            context.add(_receipt(f"{EMBED}.embedder"))
            return Embedded(
                tuple(_vector(part) for part in job.inputs), num_tokens=sum(_num_tokens(part) for part in job.inputs)
            )


def spoken(job: ChatJob) -> str:
    """The conversation as one text; an image is its size."""
    return " ".join(
        part.text if isinstance(part, TextPart) else f"[{part.width}x{part.height}]"
        for message in job.messages
        for part in message.parts
    )


def answer_words(job: ChatJob) -> list[str]:
    """What the fake will say, stop strings applied."""
    text = f"You said: {spoken(job)}"
    for stop in job.sampling.stop:
        text = text.partition(stop)[0]
    return [word if at == 0 else f" {word}" for at, word in enumerate(text.split(" "))]


def gradient(job: PaintJob, seed: int, progress: float) -> NDArray[np.uint8]:
    """[height, width, 3]; paler while `progress` is under 1."""
    own = (SIDE, SIDE) if job.init is None else (job.init.image.width, job.init.image.height)
    width, height = job.width or own[0], job.height or own[1]
    colour = np.frombuffer(hashlib.sha256(f"{job.prompt}{seed}".encode()).digest()[:3], dtype=np.uint8)
    across = np.linspace(0.3, 1.0, width, dtype=np.float32)[None, :, None]
    down = np.linspace(0.5, 1.0, height, dtype=np.float32)[:, None, None]
    return np.asarray(255 - (255 - colour.astype(np.float32)) * across * down * progress, dtype=np.uint8)


def _logprobs(wanted: int | None, word: str) -> tuple[TokenLogprob, ...]:
    if wanted is None:
        return ()
    top = tuple(TokenLogprob(rank, f"{word}{rank}", f"{word}{rank}".encode(), -1.0 - rank) for rank in range(wanted))
    return (TokenLogprob(1, word, word.encode(), -0.5, top),)


def _vector(part: TextPart | ImagePart) -> NDArray[np.float32]:
    data = part.text.encode() if isinstance(part, TextPart) else part.data
    raw = np.frombuffer(hashlib.sha256(data).digest()[:WIDTH], dtype=np.uint8).astype(np.float32) + 1
    return np.asarray(raw / np.linalg.norm(raw), dtype=np.float32)


def _num_tokens(part: TextPart | ImagePart) -> int:
    return len(part.text.split()) if isinstance(part, TextPart) else 49


def _receipt(stage: str) -> StageReceipt:
    return StageReceipt(
        stage=stage,
        replica="replica-1",
        device="cpu",
        queue_s=0.002,
        run_s=0.04,
        device_s=0.01,
        batch_size=4.0,
        steps=1,
        cache="miss",
        pool="deployment-1",
        expected_s=0.05,
        runner_up="replica-2",
        runner_up_pool="deployment-2",
        runner_up_s=0.07,
        reasons=("the soonest",),
    )
