"""A picture from a sentence, or from a picture and a sentence: prompt embeddings and the given picture's latents by name, denoise
with progress and previews, decode.

Straight-line code over stage names. Knows no HTTP, no tensors, no replicas; what may be asked is `paint_rules.py`.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cache.keys import digest, name
from pipelines.client import StageClient
from pipelines.context import RequestContext
from pipelines.jobs import ImagePart, PaintEvent, PaintJob, PaintPicture, PaintProgress
from pipelines.rules.paint_rules import PaintRules, Size
from pipelines.streams import merged
from stages.contract.errors import InvalidRequest, StageFailed
from stages.contract.item import Item, StreamEnd
from stages.contract.result import Arrays
from stages.diffusion.messages import (
    DecodeLatents,
    Denoise,
    DenoiseEnd,
    DenoisePreview,
    DenoiseProgress,
    EncodePixels,
    EncodePrompt,
)
from stages.vision.picture import decode, fit


class TextToImagePipeline:
    """One served model. `text_fingerprint` names text encoder, tokenizer and dtype; `vae_fingerprint` the vae encoder and its
    dtype (None: the model edits no pictures). `max_picture_pixels`: of a given picture, before it is scaled."""

    def __init__(
        self,
        model: str,
        client: StageClient,
        rules: PaintRules,
        *,
        text_fingerprint: str,
        vae_fingerprint: str | None,
        max_picture_pixels: int,
    ) -> None:
        self._text, self._denoiser = f"{model}.text_encoder", f"{model}.denoiser"
        self._decoder, self._encoder = f"{model}.vae_decoder", f"{model}.vae_encoder"
        self._client, self._rules = client, rules
        self._text_fingerprint, self._vae_fingerprint = text_fingerprint, vae_fingerprint
        self._max_picture_pixels = max_picture_pixels

    async def paint(self, job: PaintJob, context: RequestContext) -> AsyncGenerator[PaintEvent, None]:
        work = await self._work(job, context)
        async with aclosing(merged([self._picture(index, work, job, context) for index in range(job.n)])) as events:
            async for _, event in events:
                yield event

    async def _work(self, job: PaintJob, context: RequestContext) -> Denoise:
        """The denoiser's task but for the seed's offset. Raises `InvalidRequest`."""
        rules = self._rules
        size, steps, guidance, sampler = rules.size(job), rules.steps(job), rules.guidance_scale(job), rules.sampler(job)
        (prompt, negative), init = await asyncio.gather(
            self._embeddings(job, guidance, context), self._init(job, size, context)
        )
        return Denoise(
            prompt=prompt,
            negative=negative,
            width=size[0],
            height=size[1],
            steps=steps,
            guidance_scale=guidance,
            seed=job.seed if job.seed is not None else secrets.randbits(32),
            sampler=sampler,
            preview_steps=_preview_steps(steps, job.partial_images),
            init=init,
            strength=rules.strength(job),
        )

    async def _init(self, job: PaintJob, size: Size, context: RequestContext) -> Arrays | None:
        """The given picture's latents, by name: the same picture at the same size is encoded once. Raises `InvalidRequest`."""
        if job.init is None:
            return None
        part = job.init.picture
        if self._vae_fingerprint is None:
            raise InvalidRequest("this model edits no pictures: it has no vae_encoder", param=part.param)
        content, pixels = await asyncio.to_thread(self._read, part, size)
        key = name(
            "picture_latents", weights=self._vae_fingerprint, tenant=context.salt, image=content, width=size[0], height=size[1]
        )
        item = Item(
            f"{context.id}:{part.param}",
            EncodePixels(pixels),
            name=key,
            priority=context.priority,
            deadline=context.deadline,
        )
        reply = await self._client.call(self._encoder, item)
        context.add(reply.receipt)
        return reply.value

    def _read(self, part: ImagePart, size: Size) -> tuple[str, NDArray[np.uint8]]:
        """The digest of a given picture's bytes, and its pixels at `size`."""
        image = decode(part.data, max_pixels=self._max_picture_pixels, param=part.param)
        return digest(part.data), fit(image, *size)

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
        # Both are rows of one forward pass, so they have as many positions: the shorter one is filled up.
        if len(prompt["embeds"]) < len(negative["embeds"]):
            prompt = await self._embed(job.prompt, "prompt", context, min_positions=len(negative["embeds"]))
        elif len(negative["embeds"]) < len(prompt["embeds"]):
            text, positions = job.negative_prompt or "", len(prompt["embeds"])
            negative = await self._embed(text, "negative_prompt", context, min_positions=positions)
        return prompt, negative

    async def _embed(self, text: str, param: str, context: RequestContext, *, min_positions: int = 0) -> Arrays:
        key = name(
            "prompt_embeddings", weights=self._text_fingerprint, tenant=context.salt, text=text, min_positions=min_positions
        )
        item = Item(
            f"{context.id}:{param}",
            EncodePrompt(text, min_positions),
            name=key,
            priority=context.priority,
            deadline=context.deadline,
        )
        try:
            reply = await self._client.call(self._text, item)
        except InvalidRequest as error:
            raise error.for_request(param) from error.__cause__
        context.add(reply.receipt)
        return reply.value

    async def _picture(
        self, index: int, work: Denoise, job: PaintJob, context: RequestContext
    ) -> AsyncGenerator[PaintEvent, None]:
        work = replace(work, seed=(work.seed + index) % 2**63)
        item = Item(
            f"{context.id}:picture:{index}",
            work,
            priority=context.priority,
            deadline=context.deadline,
            pace_s=context.pace_s,
        )
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
