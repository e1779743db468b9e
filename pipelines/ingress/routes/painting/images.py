"""POST /v1/images/generations, /edits and /variations. From their bodies to a `PaintJob` is `asked.py`, what the answer looks like
`image_answers.py`. Knows no stages."""

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from fastapi import Request, Response

from pipelines.context import RequestContext
from pipelines.ingress.images.image_store import ImageStore
from pipelines.ingress.images.image_url import ImageSource
from pipelines.ingress.request.arrival import Arrival
from pipelines.ingress.request.disconnect import unless_gone
from pipelines.ingress.request.receipts import ReceiptPrinter
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.request.sse import EventStream, opened
from pipelines.ingress.request.whole_answer import WholeAnswer
from pipelines.ingress.routes.painting.asked import (
    Given,
    asked_edit,
    asked_variation,
    given_image,
    image_output,
    paint_job,
    painter_of,
)
from pipelines.ingress.routes.painting.image_answers import ImageAnswer, ImageStreamWriter
from pipelines.ingress.schemas.images import (
    EDIT_EVENTS,
    GENERATION_EVENTS,
    EditBody,
    EventTypes,
    ImagesBody,
    PaintBody,
    PaintExtras,
)
from pipelines.jobs import GivenImage, PaintEvent, PaintImage, PaintJob, PaintPipeline
from pipelines.threads import Threads
from stages.contract.errors import StageFailed


@dataclass(frozen=True, slots=True)
class ImagesRoute:
    """All three routes: they differ in what they read and in what their events are called."""

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
        return await self._edited(request, context, *await asked_edit(self.arrival, request, context))

    async def vary(self, request: Request) -> Response:
        context = self.arrival.open(request)
        return await self._edited(request, context, *await asked_variation(self.arrival, request, context))

    async def _edited(self, request: Request, context: RequestContext, body: EditBody, given: Given) -> Response:
        loading = given_image(body, given, self.images, self.settings)
        init = await unless_gone(request.receive, context, loading)
        return await self._answer(request, context, body, EDIT_EVENTS, init)

    async def _answer(
        self,
        request: Request,
        context: RequestContext,
        body: PaintBody,
        events: EventTypes,
        init: GivenImage | None = None,
    ) -> Response:
        extras = body.triptych or PaintExtras()
        served = self.arrival.served(context.tenant)
        model = painter_of(body, served, edits=init is not None)
        self.arrival.asks(request, model, context)
        pipeline = served.paint_pipeline(model)
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
