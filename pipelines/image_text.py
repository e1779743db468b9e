"""A chat request, from messages to tokens: build the prompt, have the pictures seen, have the LLM answer.

Straight-line code over stage names. Knows no HTTP, no tensors, no replicas: what a picture's features are called follows from
digests alone, and whether they are remembered or computed is the vision stage's affair.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from cache.keys import digest, name
from pipelines.client import StageClient
from pipelines.context import RequestContext
from pipelines.jobs import (
    AskedSampling,
    ChatChoiceEnd,
    ChatDelta,
    ChatEvent,
    ChatJob,
    ChatStarted,
    ImagePart,
    SamplingDefaults,
)
from pipelines.prompts.prompt import Prompt, PromptBuilder
from pipelines.rules.sampling_defaults import completed
from pipelines.streams import merged
from stages.contract.errors import InvalidRequest, StageFailed
from stages.contract.item import Item, StreamEnd
from stages.llm.messages import Generate, GenerationEnd, ImageSpan, Sampling, TokenDelta
from stages.vision.messages import EncodeImage


class ImageTextPipeline:
    """One served model. `vision_fingerprint` names tower, projector, preprocessing and dtype; None: the model sees no pictures."""

    def __init__(
        self,
        model: str,
        client: StageClient,
        prompts: PromptBuilder,
        *,
        vision_fingerprint: str | None,
        max_pixels: int,
        max_context_tokens: int,
        defaults: SamplingDefaults,
    ) -> None:
        self._llm, self._vision = f"{model}.llm", f"{model}.vision_encoder"
        self._client, self._prompts = client, prompts
        self._vision_fingerprint, self._max_pixels = vision_fingerprint, max_pixels
        self._max_context_tokens, self._defaults = max_context_tokens, defaults

    async def chat(self, job: ChatJob, context: RequestContext) -> AsyncGenerator[ChatEvent, None]:
        self._refuse_pictures_if_blind(job)
        prompt = await asyncio.to_thread(self._prompts.build, job.messages)
        sampling = self._fit(job.sampling, len(prompt.token_ids))
        spans = await self._see(prompt, context)
        choices = [self._choice(index, sampling, prompt, spans, context) for index in range(job.n)]
        started = False
        async with aclosing(merged(choices)) as events:
            async for _, event in events:
                if not started:
                    started = True
                    yield ChatStarted(prompt_tokens=len(prompt.token_ids))
                yield event

    def _refuse_pictures_if_blind(self, job: ChatJob) -> None:
        for message in job.messages:
            for part in message.parts:
                if isinstance(part, ImagePart) and self._vision_fingerprint is None:
                    raise InvalidRequest("this model sees no pictures: it has no vision_encoder", param=part.param)

    def _fit(self, asked: AskedSampling, num_prompt_tokens: int) -> Sampling:
        """What is asked, with the model's defaults and the answer's bound. Raises `InvalidRequest` where prompt and answer
        together are longer than the context."""
        limit = self._max_context_tokens
        room = limit - num_prompt_tokens
        if room < 1:
            raise InvalidRequest(
                f"the prompt has {num_prompt_tokens} tokens and the context is {limit} "
                "(models.*.llm.max_context_tokens), which leaves no room for an answer; shorten the messages",
                param="messages",
            )
        if asked.max_tokens > room:
            raise InvalidRequest(
                f"max_tokens {asked.max_tokens} and the prompt's {num_prompt_tokens} tokens are together over the context of "
                f"{limit} (models.*.llm.max_context_tokens); at most {room} fit",
                param="max_tokens",
            )
        return completed(asked, self._defaults, room)

    async def _see(self, prompt: Prompt, context: RequestContext) -> tuple[ImageSpan, ...]:
        """Every picture's features, by name; a picture that occurs twice is asked for twice and computed once."""
        return tuple(await asyncio.gather(*[self._features(*image, context) for image in prompt.images]))

    async def _features(self, offset: int, length: int, part: ImagePart, context: RequestContext) -> ImageSpan:
        content = await asyncio.to_thread(digest, part.data)
        key = name("vision_features", weights=str(self._vision_fingerprint), tenant=context.salt, image=content)
        item = Item(
            f"{context.id}:image:{offset}",
            EncodeImage(part.data, self._max_pixels),
            name=key,
            priority=context.priority,
            deadline=context.deadline,
        )
        try:
            reply = await self._client.call(self._vision, item)
        except InvalidRequest as error:
            raise error.for_request(part.param) from error.__cause__
        context.add(reply.receipt)
        return ImageSpan(offset, length, content, reply.value)

    async def _choice(
        self, index: int, sampling: Sampling, prompt: Prompt, spans: Sequence[ImageSpan], context: RequestContext
    ) -> AsyncGenerator[ChatEvent, None]:
        if sampling.seed is not None:
            sampling = replace(sampling, seed=(sampling.seed + index) % 2**63)
        work = Generate(tuple(prompt.token_ids), sampling, tuple(spans), salt=context.salt)
        item = Item(
            f"{context.id}:choice:{index}",
            work,
            priority=context.priority,
            deadline=context.deadline,
            pace_s=context.pace_s,
        )
        end: GenerationEnd | None = None
        async with aclosing(self._client.stream(self._llm, item)) as batches:
            async for batch in batches:
                for event in batch:
                    match event:
                        case TokenDelta():
                            yield ChatDelta(index, event.text, event.logprobs)
                        case GenerationEnd():
                            end = event
                        case StreamEnd():
                            context.add(event.receipt)
        if end is None:
            raise StageFailed(f"{self._llm} ended its stream without an end")
        yield ChatChoiceEnd(index, end.reason, end.completion_tokens, end.cached_tokens)
