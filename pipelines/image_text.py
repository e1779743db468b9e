"""A chat request, from messages to tokens: build the prompt, have the LLM answer it.

Straight-line code over stage names. Knows no HTTP, no tensors, no replicas. What an image's features are called follows from
digests alone; the LLM is sent recipes of them, and whether they are remembered, made or not even needed is the affair of whoever
hosts it.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

from cache.keys import digest, name
from pipelines.answering import Answering
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
from stages.contract.errors import InvalidRequest
from stages.contract.news import Hints
from stages.contract.recipe import Recipe
from stages.contract.work import Work
from stages.llm.messages import Generate, ImageSpan, Sampling, TokenDelta
from stages.llm.structure.checking import check
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
        self._vision = f"{model}.vision_encoder"
        self._client, self._prompts, self._threads = client, prompts, threads
        self._vision_fingerprint, self._max_pixels = vision_fingerprint, max_pixels
        self._answering = Answering(f"{model}.llm", client, max_context_tokens=max_context_tokens, chunk_tokens=chunk_tokens)

    async def chat(self, job: ChatJob, context: RequestContext) -> AsyncGenerator[ChatEvent, None]:
        dialect = self._prompts.dialect
        dialect.check(job.tools, job.sampling.constraint)
        self._refuse_images_if_blind(job)
        self._note_what_is_not_used(job, context)
        prompt = await self._prompt(job)
        sampling = self._answering.fit(job.sampling, len(prompt.token_ids), may_shorten=job.may_shorten, param="messages")
        answer = dialect.answer(sampling, job.tools, prompt.begun)
        sampling = answer.sampling()
        await self._check(sampling)
        num_bytes = sum(len(placed.image.data) for placed in prompt.images)
        images, hints = await self._threads.digests.run(num_bytes, self._hashed, prompt, context.salt)
        payload = Generate(tuple(prompt.token_ids), sampling, images, salt=context.salt)
        self._client.admit(
            self._visits(payload, hints, job.n),
            deadline=context.deadline,
            priority=context.priority,
            tenant=context.tenant,
            asked=context.asked,
        )
        choices = [self._answering.choice(index, payload, hints, context) for index in range(job.n)]
        readers = [answer.reader() for _ in choices]
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
        for field, variables in job.template.asked.items():
            if not any(map(self._prompts.uses, variables)):
                context.note(field, "no effect: the model's chat template has no such setting")

    async def token_ids(self, job: ChatJob) -> Sequence[int]:
        """Of its prompt. Raises `InvalidRequest`."""
        self._refuse_images_if_blind(job)
        return (await self._prompt(job)).token_ids

    async def _prompt(self, job: ChatJob) -> Prompt:
        num_chars = self._prompts.num_chars(job.messages, job.tools)
        return await self._threads.prompts.run(num_chars, self._prompts.build, job.messages, job.tools, job.template)

    async def _check(self, sampling: Sampling) -> None:
        if (constraint := sampling.constraint) is not None:
            await self._threads.prompts.run_apart(_CHECK_CHARS * len(constraint.text), check, constraint)

    def _refuse_images_if_blind(self, job: ChatJob) -> None:
        for message in job.messages:
            for part in message.parts:
                if isinstance(part, ImagePart) and self._vision_fingerprint is None:
                    raise InvalidRequest("this model sees no images: it has no vision_encoder", param=part.param)

    def _hashed(self, prompt: Prompt, salt: str) -> tuple[tuple[ImageSpan, ...], Hints]:
        """Where the prompt's images stand, and what its beginnings are called where it is asked who holds them. Off the event loop."""
        images = self._images(prompt, salt)
        placed = [(image.offset, image.length, image.features.name) for image in images]
        each = Work(BLOCK_TOKENS, BLOCK_TOKENS / self._answering.chunk_tokens)
        return images, Hints(prompt_hints(salt, prompt.token_ids, placed), each, unit="tokens")

    def _visits(self, payload: Generate, hints: Hints, num_choices: int) -> Sequence[Visit]:
        """One after the other: all images at once, then the LLM, all answers beside one another."""
        works = [span.features.work for span in payload.images if span.features.work is not None]
        encoding = [Visit(self._vision, Work(sum(work.amount for work in works)))] if works else []
        return [*encoding, self._answering.visit([payload], hints, num_choices)]

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


def _echoed(job: ChatJob) -> Sequence[ChoiceEvents]:
    """What answers that go on with the last message say first, where that is asked for."""
    if not (job.template.echoes and job.template.continues):
        return ()
    text = "".join(part.text for part in job.messages[-1].parts if isinstance(part, TextPart))
    return [ChoiceEvents(index, (TokenDelta(text, 0),)) for index in range(job.n)]
