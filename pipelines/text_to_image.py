"""An image from a sentence, or from an image and a sentence: denoise with progress and previews, decode.

Straight-line code over stage names. Knows no HTTP, no tensors, no replicas; what may be asked is `paint_rules.py`. The denoiser is
sent recipes of the prompts' embeddings and of the given image's latents, which follow from the request alone, and is told after which
steps the painting's state is to be kept: a painting that was interrupted goes on from there when it is asked for again, variations
begin where their trunk ends, and one whose seed was given and whose last state was kept is there at once.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from cache.keys import digest, name
from pipelines.client import Rest, StageClient, Visit
from pipelines.context import RequestContext
from pipelines.jobs import PaintEvent, PaintImage, PaintJob, PaintProgress
from pipelines.rules.paint_rules import PaintRules, Size
from pipelines.streams import merged
from pipelines.threads import Threads
from stages.contract.blob import Blob
from stages.contract.errors import InvalidRequest, StageFailed
from stages.contract.item import InputReceipts, ReplicaEnded, StreamEnd
from stages.contract.news import NO_HINTS, Hints
from stages.contract.recipe import Recipe
from stages.contract.work import Work
from stages.diffusion.messages import (
    DecodeLatents,
    Denoise,
    DenoiseEnd,
    DenoisePreview,
    DenoiseProgress,
    EncodePrompt,
    EncodeToLatents,
    Latents,
    Original,
    PromptEmbedding,
)


class PromptLengths(Protocol):
    """Implemented by `stages/diffusion/prompt_lengths.py`."""

    def positions(self, text: str) -> int:
        """Of the text's embedding. Milliseconds of CPU, on any thread. Raises `InvalidRequest` for a text that is too long."""
        ...

    def work(self, text: str, min_positions: int = 0) -> Work:
        """Of embedding it, about."""
        ...


class PaintingWork(Protocol):
    """Implemented by `stages/diffusion/work.py`."""

    def of(self, payload: Denoise) -> Work:
        """Of all steps. Any thread."""
        ...

    def hints(self, payload: Denoise) -> Hints:
        """Of its states that are kept, which spare as much of that. Any thread."""
        ...


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a client is to be shown of a painting. `partial` as in `PaintImage`."""

    latents: Latents
    partial: int | None


class TextToImagePipeline:
    """One served model. `text_fingerprint` names text encoder and tokenizer; `vae_fingerprint` the vae encoder (None: the model
    edits no images); `decoder_fingerprint` the vae decoder, where finished images are remembered (None: they are not).
    `max_image_pixels`: of a given image, before it is scaled. `keep_steps`: after which steps states are kept; a fraction is of the
    request's steps."""

    def __init__(
        self,
        model: str,
        client: StageClient,
        rules: PaintRules,
        lengths: PromptLengths,
        work: PaintingWork,
        *,
        threads: Threads,
        text_fingerprint: str,
        vae_fingerprint: str | None,
        max_image_pixels: int,
        keep_steps: Sequence[int | float] = (),
        decoder_fingerprint: str | None = None,
    ) -> None:
        self._text, self._denoiser = f"{model}.text_encoder", f"{model}.denoiser"
        self._decoder, self._encoder = f"{model}.vae_decoder", f"{model}.vae_encoder"
        self._client, self._rules, self._lengths, self._threads = client, rules, lengths, threads
        self._work = work
        self._text_fingerprint, self._vae_fingerprint = text_fingerprint, vae_fingerprint
        self._max_image_pixels = max_image_pixels
        self._keep_steps, self._decoder_fingerprint = keep_steps, decoder_fingerprint

    async def paint(self, job: PaintJob, context: RequestContext) -> AsyncGenerator[PaintEvent, None]:
        payload = await self._threads.prompts.run(_size_of(job), self._payload, job, context.salt)
        self._client.admit(
            self._visits(payload, job.n),
            deadline=context.deadline,
            priority=context.priority,
            tenant=context.tenant,
            asked=context.asked,
        )
        images = [self._image(index, payload, context) for index in range(job.first, job.first + job.n)]
        async with aclosing(images[0] if job.n == 1 else merged(images)) as events:
            async for event in events:
                yield event

    async def forecast(self, job: PaintJob, context: RequestContext) -> float | None:
        payload = await self._threads.prompts.run(_size_of(job), self._payload, job, context.salt)
        return self._client.forecast(self._visits(payload, job.n), priority=context.priority, tenant=context.tenant)

    def _visits(self, payload: Denoise, num_images: int) -> Sequence[Visit]:
        """One after the other; the images beside one another, of one prompt."""
        hints = self._work.hints(payload) if num_images == 1 else NO_HINTS  # the others are of other seeds
        painting = Visit(self._denoiser, self._work.of(payload).beside(num_images), hints)
        decoding = Visit(self._decoder, _decoding_work(payload).beside(num_images))
        return [Visit(self._text, payload.prompt.work), painting, decoding]

    def _payload(self, job: PaintJob, salt: str) -> Denoise:
        """The denoiser's task but for the seed's offset. Tokenizes and hashes: off the event loop. Raises `InvalidRequest`."""
        rules = self._rules
        size, steps, guidance, sampler = rules.size(job), rules.steps(job), rules.guidance_scale(job), rules.sampler(job)
        prompts, trunk_steps = self._prompts(job, guidance, salt), _trunk_steps(job, steps)
        return Denoise(
            prompt=prompts["prompt"],
            negative=prompts.get("negative_prompt"),
            width=size[0],
            height=size[1],
            steps=steps,
            guidance_scale=guidance,
            seed=job.seed if job.seed is not None else secrets.randbits(32),
            sampler=sampler,
            preview_steps=_preview_steps(steps, job.partial_images),
            init=self._init(job, size, salt),
            strength=rules.strength(job),
            masked=job.init is not None and job.init.mask is not None,
            keep_steps=self._kept(job, steps, trunk_steps),
            salt=salt,
            trunk=prompts.get("trunk"),
            trunk_steps=trunk_steps,
        )

    def _kept(self, job: PaintJob, steps: int, trunk_steps: int) -> tuple[int, ...]:
        """After which steps; after the last where the finished image is to be found again. Nobody can ask again for a seed that
        nobody chose, but whoever takes over from a replica that died can."""
        on_the_way = {trunk_steps, *(round(steps * one) if isinstance(one, float) else one for one in self._keep_steps)}
        finished = {steps} if self._decoder_fingerprint is not None and job.seed is not None else set()
        return tuple(sorted({step for step in on_the_way if 1 <= step < steps} | finished))

    def _prompts(self, job: PaintJob, guidance: float, salt: str) -> dict[str, Recipe[PromptEmbedding]]:
        """By the job's fields. All are conditions of one forward pass, or of one row's, so they have as many positions: shorter ones
        are filled up."""
        texts = {"prompt": job.prompt}
        if guidance > 1 and self._rules.negative_prompts:
            texts["negative_prompt"] = job.negative_prompt or ""
        elif job.negative_prompt:
            raise InvalidRequest(
                "negative_prompt has no effect without classifier-free guidance (guidance_scale over 1, on a model that has it)",
                param="negative_prompt",
            )
        if job.trunk is not None:
            texts["trunk"] = job.trunk.prompt
        lengths = {field: self._positions(text, field) for field, text in texts.items()} if len(texts) > 1 else {"prompt": 0}
        most = max(lengths.values())
        return {
            field: self._embedding(text, most if lengths[field] < most else 0, field, salt) for field, text in texts.items()
        }

    def _positions(self, text: str, param: str) -> int:
        try:
            return self._lengths.positions(text)
        except InvalidRequest as error:
            raise error.for_request(param) from error.__cause__

    def _embedding(self, text: str, min_positions: int, param: str, salt: str) -> Recipe[PromptEmbedding]:
        weights = self._text_fingerprint
        key = name("prompt_embeddings", weights=weights, tenant=salt, text=text, min_positions=min_positions)
        return Recipe(key, self._text, EncodePrompt(text, min_positions), param, self._lengths.work(text, min_positions))

    def _init(self, job: PaintJob, size: Size, salt: str) -> Recipe[Latents] | None:
        """The given image's latents: the same image at the same size is encoded once. Raises `InvalidRequest`."""
        if job.init is None:
            return None
        part, mask, (width, height) = job.init.image, job.init.mask, size
        if self._vae_fingerprint is None:
            raise InvalidRequest("this model edits no images: it has no vae_encoder", param=part.param)
        self._rules.refuse_other_masks(job.init)
        key = name(
            "image_latents",
            weights=self._vae_fingerprint,
            tenant=salt,
            image=digest(part.data),
            width=width,
            height=height,
            mask=digest(mask.data) if mask is not None else None,
        )
        payload = EncodeToLatents(
            Blob(part.data), width, height, self._max_image_pixels, Blob(mask.data) if mask is not None else None
        )
        params = {"mask": mask.param} if mask is not None else {}
        return Recipe(key, self._encoder, payload, part.param, Work(float(width * height)), params)

    async def _image(self, index: int, payload: Denoise, context: RequestContext) -> AsyncGenerator[PaintEvent, None]:
        """Denoises, and decodes beside that what there is to see, in its order."""
        payload = replace(payload, seed=(payload.seed + index) % 2**63)
        seen: asyncio.Queue[_Seen] = asyncio.Queue()
        parts = [self._denoised(index, payload, seen, context), self._decoded(index, payload, seen, context)]
        async with aclosing(merged(parts)) as events:
            async for event in events:
                yield event

    async def _denoised(
        self, index: int, payload: Denoise, seen: "asyncio.Queue[_Seen]", context: RequestContext
    ) -> AsyncGenerator[PaintEvent, None]:
        work, hints = self._work.of(payload), self._work.hints(payload)
        item = context.item(f"image:{index}", payload, work=work, hints=hints)
        latents: Latents | None = None
        previewed: set[int] = set()
        stream = self._client.stream(self._denoiser, item, again=lambda: Rest(payload, work), lost=context.lost_replicas)
        async with aclosing(stream) as batches:
            async for batch in batches:
                for event in batch:
                    match event:
                        case DenoiseProgress():
                            yield PaintProgress(index, event.step, event.total)
                        case DenoisePreview() if event.step not in previewed:  # where it started anew, they come again
                            seen.put_nowait(_Seen(event.latents, len(previewed)))
                            previewed.add(event.step)
                        case DenoiseEnd():
                            latents = event.latents
                        case InputReceipts():
                            context.add(*event.receipts)
                        case ReplicaEnded() | StreamEnd():
                            context.add(event.receipt)
        if latents is None:
            raise StageFailed(f"{self._denoiser} ended its stream without latents")
        seen.put_nowait(_Seen(latents, None))

    async def _decoded(
        self, index: int, payload: Denoise, seen: "asyncio.Queue[_Seen]", context: RequestContext
    ) -> AsyncGenerator[PaintEvent, None]:
        is_last = False
        while not is_last:
            one = await seen.get()
            is_last = one.partial is None
            key = await self._pixels_name(one, payload)
            part = f"decode:{index}:{'end' if one.partial is None else one.partial}"
            item = context.item(part, DecodeLatents(one.latents, _original(payload)), name=key, work=_decoding_work(payload))
            reply = await self._client.call(self._decoder, item, lost=context.lost_replicas)
            context.add(*reply.receipts)
            yield PaintImage(index, reply.value.pixels, payload.seed, one.partial)

    async def _pixels_name(self, seen: _Seen, payload: Denoise) -> str | None:
        """Of a finished image that is to be found again; by the latents themselves, whatever they were made of, and what is put over
        them."""
        if seen.partial is not None or self._decoder_fingerprint is None or payload.steps not in payload.keep_steps:
            return None
        latents = await self._threads.digests.run(seen.latents.num_bytes, _digest_of, seen.latents)
        original = payload.init.name if payload.init is not None and payload.masked else None
        return name("pixels", weights=self._decoder_fingerprint, tenant=payload.salt, latents=latents, original=original)


def _original(payload: Denoise) -> Original | None:
    """What of the given image stays, to the pixel."""
    given = payload.init.payload if payload.init is not None else None
    if not isinstance(given, EncodeToLatents) or given.mask is None:
        return None
    return Original(given.data, given.mask, given.max_pixels)


def _decoding_work(payload: Denoise) -> Work:
    return Work(float(payload.width * payload.height))


def _size_of(job: PaintJob) -> int:
    """Of what is to be read: characters and bytes."""
    texts = (job.prompt, job.negative_prompt, job.trunk.prompt if job.trunk is not None else None)
    given = [part for part in (job.init.image, job.init.mask) if part is not None] if job.init is not None else []
    return sum(len(text or "") for text in texts) + sum(len(part.data) for part in given)


def _trunk_steps(job: PaintJob, steps: int) -> int:
    """How many follow the trunk's prompt. Raises `InvalidRequest` where none would, or all."""
    if job.trunk is None:
        return 0
    shared = round(steps * job.trunk.part)
    if not 1 <= shared < steps:
        raise InvalidRequest(
            f"trunk: part {job.trunk.part} of {steps} steps is {shared}; at least one is shared, and at least one is not",
            param="trunk",
        )
    return shared


def _digest_of(latents: Latents) -> str:
    array = latents.latents
    return name("latents", dtype=array.dtype.str, shape=array.shape, content=digest(array.tobytes()))


def _preview_steps(steps: int, partial_images: int) -> tuple[int, ...]:
    """After which steps a preview is shown: spread evenly, never the last (that is the image itself)."""
    wanted = {round(steps * (count + 1) / (partial_images + 1)) for count in range(partial_images)}
    return tuple(sorted(step for step in wanted if 1 <= step < steps))
