"""A picture from a sentence: prompt embeddings by name, denoise with progress and previews, decode.

Straight-line code over stage names. Knows no HTTP, no tensors, no replicas.
"""

import asyncio
import math
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from cache.keys import name
from pipelines.client import StageClient
from pipelines.context import RequestContext
from pipelines.jobs import PaintEvent, PaintJob, PaintPicture, PaintProgress
from pipelines.streams import merged
from stages.errors import InvalidRequest, StageFailed
from stages.stage import (
    Arrays,
    DecodeLatents,
    Denoise,
    DenoiseEnd,
    DenoisePreview,
    DenoiseProgress,
    EncodePrompt,
    Item,
    StreamEnd,
)


@dataclass(frozen=True, slots=True)
class PaintRules:
    """What may be asked of a painter, from its checkpoint and its configuration. Sizes in pixels, (width, height)."""

    sizes: tuple[tuple[int, int], ...]
    default_size: tuple[int, int]
    size_multiple: int
    max_pixels: int
    default_steps: int
    max_steps: int
    default_guidance_scale: float
    samplers: tuple[str, ...]
    negative_prompts: bool


class TextToImagePipeline:
    """One served model. `text_fingerprint` names text encoder, tokenizer and dtype."""

    def __init__(self, model: str, client: StageClient, rules: PaintRules, *, text_fingerprint: str) -> None:
        self._text, self._denoiser, self._decoder = f"{model}.text_encoder", f"{model}.denoiser", f"{model}.vae_decoder"
        self._client, self._rules, self._text_fingerprint = client, rules, text_fingerprint

    async def paint(self, job: PaintJob, context: RequestContext) -> AsyncGenerator[PaintEvent, None]:
        work = await self._work(job, context)
        async with aclosing(merged([self._picture(index, work, job, context) for index in range(job.n)])) as events:
            async for _, event in events:
                yield event

    async def _work(self, job: PaintJob, context: RequestContext) -> Denoise:
        """The denoiser's task but for the seed's offset. Raises `InvalidRequest`."""
        rules = self._rules
        width, height = self._size(job)
        steps = job.steps if job.steps is not None else rules.default_steps
        if not 1 <= steps <= rules.max_steps:
            raise InvalidRequest(
                f"num_inference_steps {steps} is outside 1..{rules.max_steps} (models.*.max_steps)",
                param="num_inference_steps",
            )
        guidance = job.guidance_scale if job.guidance_scale is not None else rules.default_guidance_scale
        if not math.isfinite(guidance) or not 0 <= guidance <= 100:
            raise InvalidRequest(f"guidance_scale {guidance} is outside 0..100", param="guidance_scale")
        if job.sampler is not None and job.sampler not in rules.samplers:
            raise InvalidRequest(f"scheduler {job.sampler!r} is not one of {', '.join(rules.samplers)}", param="scheduler")
        prompt, negative = await self._embeddings(job, guidance, context)
        return Denoise(
            prompt=prompt,
            negative=negative,
            width=width,
            height=height,
            steps=steps,
            guidance_scale=guidance,
            seed=job.seed if job.seed is not None else secrets.randbits(32),
            sampler=job.sampler,
            preview_steps=_preview_steps(steps, job.partial_images),
        )

    def _size(self, job: PaintJob) -> tuple[int, int]:
        rules = self._rules
        if job.width is None or job.height is None:
            return rules.default_size
        size = (job.width, job.height)
        if rules.sizes and size not in rules.sizes:
            allowed = ", ".join(f"{width}x{height}" for width, height in rules.sizes)
            raise InvalidRequest(f"size {size[0]}x{size[1]} is not served; this model paints {allowed}", param="size")
        if min(size) < rules.size_multiple or any(side % rules.size_multiple for side in size):
            raise InvalidRequest(
                f"size {size[0]}x{size[1]}: both sides must be multiples of {rules.size_multiple}, and at least that",
                param="size",
            )
        if size[0] * size[1] > rules.max_pixels:
            raise InvalidRequest(
                f"size {size[0]}x{size[1]} has {size[0] * size[1]} pixels; at most {rules.max_pixels} (models.*.max_pixels)",
                param="size",
            )
        return size

    async def _embeddings(self, job: PaintJob, guidance: float, context: RequestContext) -> tuple[Arrays, Arrays | None]:
        if guidance <= 1 or not self._rules.negative_prompts:
            if job.negative_prompt:
                raise InvalidRequest(
                    "negative_prompt has no effect without classifier-free guidance (guidance_scale over 1, on a model that has it)",
                    param="negative_prompt",
                )
            return await self._embed(job.prompt, "prompt", context), None
        prompt, negative = await asyncio.gather(
            self._embed(job.prompt, "prompt", context), self._embed(job.negative_prompt or "", "negative_prompt", context)
        )
        return prompt, negative

    async def _embed(self, text: str, param: str, context: RequestContext) -> Arrays:
        key = name("prompt_embeddings", weights=self._text_fingerprint, tenant=context.salt, text=text)
        item = Item(
            f"{context.id}:{param}", EncodePrompt(text), name=key, priority=context.priority, deadline=context.deadline
        )
        try:
            reply = await self._client.call(self._text, item)
        except InvalidRequest as error:
            error.param = param
            raise
        context.add(reply.receipt)
        return reply.value

    async def _picture(
        self, index: int, work: Denoise, job: PaintJob, context: RequestContext
    ) -> AsyncGenerator[PaintEvent, None]:
        work = replace(work, seed=(work.seed + index) % 2**63)
        item = Item(f"{context.id}:picture:{index}", work, priority=context.priority, deadline=context.deadline)
        previews: list[asyncio.Task[PaintPicture]] = []
        latents: Arrays | None = None
        partials = 0
        try:
            async with aclosing(self._client.stream(self._denoiser, item, restartable=True)) as batches:
                async for batch in batches:
                    for event in batch:
                        match event:
                            case DenoiseProgress():
                                yield PaintProgress(index, event.step, event.total)
                            case DenoisePreview():
                                preview = self._decode(index, event.latents, work.seed, partials, context)
                                previews.append(asyncio.create_task(preview))
                                partials += 1
                            case DenoiseEnd():
                                latents = event.latents
                            case StreamEnd():
                                context.add(event.receipt)
                    while previews and previews[0].done():
                        yield await previews.pop(0)
            if latents is None:
                raise StageFailed(f"{self._denoiser} ended its stream without latents")
            while previews:
                yield await previews.pop(0)
            yield await self._decode(index, latents, work.seed, None, context)
        finally:
            for task in previews:
                task.cancel()

    async def _decode(
        self, index: int, latents: Arrays, seed: int, partial: int | None, context: RequestContext
    ) -> PaintPicture:
        item = Item(
            f"{context.id}:decode:{index}:{'end' if partial is None else partial}",
            DecodeLatents(latents),
            priority=context.priority,
            deadline=context.deadline,
        )
        reply = await self._client.call(self._decoder, item)
        context.add(reply.receipt)
        return PaintPicture(index, reply.value["pixels"], seed, partial)


def _preview_steps(steps: int, partial_images: int) -> tuple[int, ...]:
    """After which steps a preview is shown: spread evenly, never the last (that is the picture itself)."""
    wanted = {round(steps * (count + 1) / (partial_images + 1)) for count in range(partial_images)}
    return tuple(sorted(step for step in wanted if 1 <= step < steps))
