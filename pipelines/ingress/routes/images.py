"""POST /v1/images/generations and /v1/images/edits: from their bodies to a `PaintJob`. What the answer looks like is
`image_answers.py`. Knows no stages."""

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar, cast

from fastapi import Request, Response

from pipelines.context import RequestContext
from pipelines.ingress.body.forms import Form
from pipelines.ingress.images.image_store import ImageStore
from pipelines.ingress.images.image_url import ImageSource
from pipelines.ingress.request.arrival import Arrival
from pipelines.ingress.request.disconnect import unless_gone
from pipelines.ingress.request.limits import check_count, check_length, check_value
from pipelines.ingress.request.receipts import ReceiptPrinter
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.request.sse import EventStream, opened
from pipelines.ingress.request.whole_answer import WholeAnswer
from pipelines.ingress.routes.image_answers import ImageAnswer, ImageOutput, ImageStreamWriter
from pipelines.ingress.schemas.images import (
    EDIT_EVENTS,
    GENERATION_EVENTS,
    EditBody,
    EditExtras,
    EventTypes,
    ImagesBody,
    PaintBody,
    PaintExtras,
    TrunkExtras,
)
from pipelines.jobs import GivenImage, PaintEvent, PaintImage, PaintJob, PaintPipeline, Trunk
from pipelines.threads import Threads
from stages.contract.errors import InvalidRequest, StageFailed

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class ImagesRoute:
    """Both routes: they differ in what they read and in what their events are called."""

    arrival: Arrival
    settings: IngressSettings
    images: ImageSource
    receipts: ReceiptPrinter
    store: ImageStore
    threads: Threads

    async def generate(self, request: Request) -> Response:
        context = self.arrival.open(request)
        body = await self.arrival.read(request, ImagesBody, context)
        return await self._answer(request, context, body, GENERATION_EVENTS)

    async def edit(self, request: Request) -> Response:
        context = self.arrival.open(request)
        form = await self.arrival.read_form(request, EditBody, context, file="image")
        init = await unless_gone(request.receive, context, self._given(form))
        return await self._answer(request, context, form.body, EDIT_EVENTS, init)

    async def _given(self, form: Form[EditBody]) -> GivenImage:
        check_count(1, self.settings.limits, "images_per_request", param="image", holds="images")
        extras = form.body.triptych or EditExtras()
        strength = _one_of(form.body.strength, extras.strength, "strength")
        return GivenImage(await self.images.take(form.file, param="image"), strength)

    async def _answer(
        self,
        request: Request,
        context: RequestContext,
        body: PaintBody,
        events: EventTypes,
        init: GivenImage | None = None,
    ) -> Response:
        extras = body.triptych or PaintExtras()
        pipeline = self.arrival.served(context.tenant).paint_pipeline(body.model)
        job, output = paint_job(body, self.settings, init), image_output(body, events)
        answer = ImageAnswer(
            output, context, self.receipts, self.store, self.threads, base_url=self.settings.address.base(request)
        )
        if body.stream:
            opening = opened(pipeline.paint(job, context), self.settings.headers_within_s)
            painting = await unless_gone(request.receive, context, opening)
            writer = ImageStreamWriter(answer, num_images=job.n, progress=extras.progress)
            return EventStream(request, context, painting, writer, heartbeat_s=self.settings.heartbeat_s)
        context.pace_s = math.inf
        content = await unless_gone(request.receive, context, _paint(pipeline, job, context, answer))
        return WholeAnswer(content)


async def _paint(pipeline: PaintPipeline, job: PaintJob, context: RequestContext, answer: ImageAnswer) -> Sequence[bytes]:
    images: dict[int, PaintImage] = {}
    async with aclosing(cast("AsyncGenerator[PaintEvent]", pipeline.paint(job, context))) as events:
        async for event in events:
            if isinstance(event, PaintImage) and event.partial is None:
                images[event.index] = event
    if len(images) < job.n:
        raise StageFailed(f"{len(images)} of {job.n} images were painted")
    return await answer.whole([images[index] for index in sorted(images)])


def paint_job(body: PaintBody, settings: IngressSettings, init: GivenImage | None) -> PaintJob:
    """Raises `InvalidRequest`."""
    n = body.n or 1
    check_value(n, settings.limits, "max_images", param="n")
    extras = body.triptych or PaintExtras()
    if not body.prompt.strip():
        raise InvalidRequest("prompt is blank; say what is to be painted", param="prompt")
    negative_prompt = _one_of(body.negative_prompt, extras.negative_prompt, "negative_prompt")
    check_length(len(body.prompt), settings.limits, param="prompt")
    check_length(len(negative_prompt or ""), settings.limits, param="negative_prompt")
    width, height = _size(body.size)
    return PaintJob(
        prompt=body.prompt,
        n=n,
        width=width,
        height=height,
        negative_prompt=negative_prompt,
        steps=_one_of(body.num_inference_steps, extras.num_inference_steps, "num_inference_steps"),
        guidance_scale=_one_of(body.guidance_scale, extras.guidance_scale, "guidance_scale"),
        seed=_one_of(body.seed, extras.seed, "seed"),
        sampler=_one_of(body.scheduler, extras.scheduler, "scheduler"),
        partial_images=body.partial_images or 0,
        init=init,
        trunk=_trunk(extras.trunk, settings),
    )


def _trunk(given: TrunkExtras | None, settings: IngressSettings) -> Trunk | None:
    """Raises `InvalidRequest`."""
    if given is None:
        return None
    if not given.prompt.strip():
        raise InvalidRequest(
            "triptych.trunk.prompt is blank; say what is to be painted at first", param="triptych.trunk.prompt"
        )
    check_length(len(given.prompt), settings.limits, param="triptych.trunk.prompt")
    return Trunk(given.prompt, given.part)


def image_output(body: PaintBody, events: EventTypes) -> ImageOutput:
    """How the images are to be handed over. Raises `InvalidRequest` for settings that would have no effect."""
    format = body.output_format or "png"
    if body.output_compression is not None and format == "png" and body.output_compression != 100:
        raise InvalidRequest(
            f"output_compression {body.output_compression} needs output_format jpeg or webp (given: png)",
            param="output_compression",
        )
    if not body.stream:
        for name, value in (
            ("partial_images", body.partial_images),
            ("triptych.progress", body.triptych and body.triptych.progress),
        ):
            if value:
                raise InvalidRequest(f"{name} is allowed only with stream: true", param=name)
    elif body.response_format == "url":
        raise InvalidRequest(
            'response_format "url" is not allowed with stream: true; events carry b64_json', param="response_format"
        )
    return ImageOutput(
        format,
        quality=max(1, body.output_compression or 0) if body.output_compression is not None else 90,
        as_url=body.response_format == "url",
        events=events,
    )


def _one_of(top: V | None, own: V | None, name: str) -> V | None:
    if top is not None and own is not None:
        raise InvalidRequest(f"{name} and triptych.{name} mean the same; give one", param=f"triptych.{name}")
    return own if top is None else top


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text is None or text == "auto":
        return None, None
    width, _, height = text.partition("x")
    return int(width), int(height)
