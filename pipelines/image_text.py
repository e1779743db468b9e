"""A chat request, from messages to tokens: build the prompt, have the LLM answer it.

Straight-line code over stage names. Knows no HTTP, no tensors, no replicas. What an image's features are called follows from
digests alone; the LLM is sent recipes of them, and whether they are remembered, made or not even needed is the affair of whoever
hosts it.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from cache.keys import digest, name
from pipelines.client import StageClient, Visit
from pipelines.context import RequestContext
from pipelines.jobs import ChatEvent, ChatJob, ChatStarted, ChoiceEvents, ImagePart, Message, TemplateOptions, TextPart
from pipelines.prompts.prompt import Prompt
from pipelines.routing.prompt_hints import BLOCK_TOKENS, prompt_hints
from pipelines.streams import merged
from pipelines.threads import Threads
from pipelines.tools.asked import Tools
from pipelines.tools.dialect import Dialect
from stages.contract.blob import Blob
from stages.contract.errors import InvalidRequest, StageFailed
from stages.contract.item import InputReceipts, StreamEnd
from stages.contract.news import Hints
from stages.contract.recipe import Recipe
from stages.contract.work import Work
from stages.llm.answer_lengths import AnswerLengths
from stages.llm.messages import Generate, GenerationEnd, ImageSpan, Sampling, TokenDelta
from stages.llm.structure.checking import check
from stages.llm.work import answer_work
from stages.vision.messages import EncodeImage, VisionFeatures

_CHECK_CHARS = 16
"""A constraint's character is as much work to check as so many of a prompt."""


class Prompts(Protocol):
    """Implemented by `pipelines/prompts/prompt.py`."""

    @property
    def dialect(self) -> Dialect:
        """How the model calls tools and thinks."""
        ...

    def uses(self, variable: str) -> bool:
        """Whether the model's template looks at a variable of that name."""
        ...

    def num_chars(self, messages: Sequence[Message], tools: Tools | None) -> int:
        """About how much there is to read: of all texts, and of what stands for the images."""
        ...

    def build(self, messages: Sequence[Message], tools: Tools | None, options: TemplateOptions) -> Prompt:
        """Milliseconds of CPU, on any thread. Raises `InvalidRequest`."""
        ...


class ImageTextPipeline:
    """One served model. `vision_fingerprint` names tower, projector and preprocessing; None: the model sees no images."""

    def __init__(
        self,
        model: str,
        client: StageClient,
        prompts: Prompts,
        *,
        threads: Threads,
        vision_fingerprint: str | None,
        max_pixels: int,
        max_context_tokens: int,
        chunk_tokens: int,
    ) -> None:
        self._llm, self._vision = f"{model}.llm", f"{model}.vision_encoder"
        self._client, self._prompts, self._threads = client, prompts, threads
        self._vision_fingerprint, self._max_pixels = vision_fingerprint, max_pixels
        self._max_context_tokens, self._chunk_tokens = max_context_tokens, chunk_tokens
        self._lengths = AnswerLengths()

    async def chat(self, job: ChatJob, context: RequestContext) -> AsyncGenerator[ChatEvent, None]:
        dialect = self._prompts.dialect
        dialect.check(job.tools)
        self._refuse_images_if_blind(job)
        self._note_what_is_not_used(job, context)
        num_chars = self._prompts.num_chars(job.messages, job.tools)
        prompt = await self._threads.prompts.run(num_chars, self._prompts.build, job.messages, job.tools, job.template)
        sampling = dialect.sampling(self._fit(job, len(prompt.token_ids)), job.tools, prompt.begun)
        if (constraint := sampling.constraint) is not None:
            await self._threads.prompts.run(_CHECK_CHARS * len(constraint.text), check, constraint)
        num_bytes = sum(len(placed.image.data) for placed in prompt.images)
        images, hints = await self._threads.digests.run(num_bytes, self._hashed, prompt, context.salt)
        payload = Generate(tuple(prompt.token_ids), sampling, images, salt=context.salt)
        self._client.admit(self._visits(payload, hints, job.n), deadline=context.deadline, priority=context.priority)
        choices = [self._choice(index, payload, hints, context) for index in range(job.n)]
        readers = [dialect.reader(job.tools, prompt.begun) for _ in choices]
        started = False
        async with aclosing(choices[0] if job.n == 1 else merged(choices)) as events:
            async for event in events:
                if not started:
                    started = True
                    yield ChatStarted(prompt_tokens=len(prompt.token_ids))
                    for echoed in _echoed(job):
                        yield echoed
                reader = readers[event.index]
                read = event.events if reader is None else reader.read(event.events)
                if read:
                    yield ChoiceEvents(event.index, read)

    def _note_what_is_not_used(self, job: ChatJob, context: RequestContext) -> None:
        for name in job.template.variables:
            if not self._prompts.uses(name):
                context.note(f"chat_template_kwargs.{name}", "no effect: the model's chat template has no such setting")

    def _refuse_images_if_blind(self, job: ChatJob) -> None:
        for message in job.messages:
            for part in message.parts:
                if isinstance(part, ImagePart) and self._vision_fingerprint is None:
                    raise InvalidRequest("this model sees no images: it has no vision_encoder", param=part.param)

    def _fit(self, job: ChatJob, num_prompt_tokens: int) -> Sampling:
        """What is asked, with a bound that was the model's own no longer than the context. Raises `InvalidRequest` where prompt and
        answer together are longer."""
        limit, asked = self._max_context_tokens, job.sampling.max_tokens
        room = limit - num_prompt_tokens
        if room < 1:
            raise InvalidRequest(
                f"messages have {num_prompt_tokens} tokens and the context is {limit} "
                "(models.*.llm.max_context_tokens), which leaves no room for an answer; shorten them",
                param="messages",
            )
        if asked <= room:
            return job.sampling
        if job.may_shorten:
            return replace(job.sampling, max_tokens=room)
        raise InvalidRequest(
            f"max_tokens {asked} and the prompt's {num_prompt_tokens} tokens are together over the context of "
            f"{limit} (models.*.llm.max_context_tokens); at most {room} fit",
            param="max_tokens",
        )

    def _hashed(self, prompt: Prompt, salt: str) -> tuple[tuple[ImageSpan, ...], Hints]:
        """Where the prompt's images stand, and what its beginnings are called where it is asked who holds them. Off the event loop."""
        images = self._images(prompt, salt)
        placed = [(image.offset, image.length, image.features.name) for image in images]
        each = Work(BLOCK_TOKENS, BLOCK_TOKENS / self._chunk_tokens)
        return images, Hints(prompt_hints(salt, prompt.token_ids, placed), each, unit="tokens")

    def _visits(self, payload: Generate, hints: Hints, num_choices: int) -> Sequence[Visit]:
        """One after the other: all images at once, then the LLM, all answers beside one another."""
        works = [span.features.work for span in payload.images if span.features.work is not None]
        encoding = [Visit(self._vision, Work(sum(work.amount for work in works)))] if works else []
        return [*encoding, Visit(self._llm, self._work(payload).beside(num_choices), hints)]

    def _work(self, payload: Generate) -> Work:
        num_answer = self._lengths.expected(payload.sampling.max_tokens)
        return answer_work(len(payload.token_ids), num_answer, self._chunk_tokens)

    def _images(self, prompt: Prompt, salt: str) -> tuple[ImageSpan, ...]:
        """Where the prompt's images stand. One that occurs twice has one name, travels once, and is made once. Hashes: off the
        event loop."""
        payloads: dict[str, EncodeImage] = {}
        spans = []
        for placed in prompt.images:
            part, work = placed.image, Work(float(placed.num_patches))
            image = digest(part.data)
            key = name("vision_features", weights=str(self._vision_fingerprint), tenant=salt, image=image)
            payload = payloads.setdefault(image, EncodeImage(Blob(part.data), self._max_pixels))
            recipe: Recipe[VisionFeatures] = Recipe(key, self._vision, payload, part.param, work)
            spans.append(ImageSpan(placed.offset, placed.length, recipe))
        return tuple(spans)

    async def _choice(
        self, index: int, payload: Generate, hints: Hints, context: RequestContext
    ) -> AsyncGenerator[ChoiceEvents, None]:
        if payload.sampling.seed is not None:
            seed = (payload.sampling.seed + index) % 2**63
            payload = replace(payload, sampling=replace(payload.sampling, seed=seed))
        ended = False
        item = context.item(f"choice:{index}", payload, work=self._work(payload), hints=hints)
        async with aclosing(self._client.stream(self._llm, item, lost=context.lost_replicas)) as batches:
            async for batch in batches:
                events: list[TokenDelta | GenerationEnd] = []
                for event in batch:
                    match event:
                        case TokenDelta():
                            events.append(event)
                        case GenerationEnd():
                            events.append(event)
                            self._lengths.saw(event.completion_tokens, was_cut=event.reason == "length")
                        case InputReceipts():
                            context.add(*event.receipts)
                        case StreamEnd():
                            context.add(event.receipt)
                ended = ended or any(isinstance(event, GenerationEnd) for event in events)
                if events:
                    yield ChoiceEvents(index, events)
        if not ended:
            raise StageFailed(f"{self._llm} ended its stream without an end")


def _echoed(job: ChatJob) -> Sequence[ChoiceEvents]:
    """What answers that go on with the last message say first, where that is asked for."""
    if not (job.template.echoes and job.template.continues):
        return ()
    text = "".join(part.text for part in job.messages[-1].parts if isinstance(part, TextPart))
    return [ChoiceEvents(index, (TokenDelta(text, 0),)) for index in range(job.n)]
