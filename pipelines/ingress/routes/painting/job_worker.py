"""What a job is to the HTTP process that does it: paintings like any others, but behind all that somebody waits for. Their progress is
noted, and the images are kept.

Decides what is noted of it, and that each image waits for room by itself. Who does it, when, and how often is
`pipelines/ingress/kept/work.py`. Knows no HTTP.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, cast

from pipelines.context import RequestContext
from pipelines.ingress.kept.kept_values import KeptValues, Kind, Owner
from pipelines.ingress.kept.work import MAX_PAUSE_S, Task
from pipelines.ingress.kept.work_state import JsonObject
from pipelines.ingress.request.arrival import Arrival
from pipelines.ingress.request.errors import internal_error_body, told_error
from pipelines.ingress.request.offline import LOWEST
from pipelines.ingress.request.receipts import ReceiptPrinter
from pipelines.ingress.routes.painting.job_request import JobRequest
from pipelines.ingress.tenants.meter import refused
from pipelines.jobs import PaintEvent, PaintImage, PaintProgress
from pipelines.threads import Threads
from stages.concurrency.thread_pool import working_for
from stages.concurrency.together import together
from stages.contract.errors import Overloaded, StageFailed, TriptychError
from stages.images.image import encode

PACE_S = 1.0
"""How often the stages tell of a job's steps."""


@dataclass(frozen=True, slots=True)
class JobWorker:
    """A `Worker`. `images`: what is kept of its images, under the job's id and their index."""

    arrival: Arrival
    receipts: ReceiptPrinter
    threads: Threads
    values: KeptValues
    images: Kind

    async def run(self, task: Task, report: Callable[[JsonObject], None]) -> JsonObject:
        request = JobRequest.of(task.given)
        context = RequestContext(
            id=task.id,
            tenant=task.owner.tenant,
            salt=task.owner.salt,
            priority=request.priority or LOWEST,
            deadline=task.until,
            pace_s=PACE_S,
            asked=task.id,
        )
        for name, why in request.notes.items():
            context.note(name, why)
        metered = self.arrival.meter.begin(context, is_waited_for=False, num=0)
        with working_for(context.tenant):
            try:
                if metered.refusal is not None:
                    raise refused(metered.refusal)
                return await self._painted(request, context, report)
            except TriptychError as error:
                raise error.for_request(request.asked_as.get(error.param or "")) from error.__cause__
            finally:
                self.arrival.meter.end(metered)

    async def forget(self, id: str, owner: Owner) -> None:
        await self.values.delete_all(self.images, image_id(id, ""), owner)

    def told_error(self, task_id: str, error: Exception) -> JsonObject:
        body = told_error(error, task_id, {}) if isinstance(error, TriptychError) else internal_error_body(task_id)
        return body.error.model_dump()

    def owner_of(self, tenant: str) -> Owner | None:
        return self.arrival.settings.key_ring().of(tenant)

    async def _painted(self, request: JobRequest, context: RequestContext, report: Callable[[JsonObject], None]) -> JsonObject:
        progress = _Progress(request.job.n, report)
        kept = await together(self._one(index, request, context, progress) for index in range(request.job.n))
        receipt = self.receipts.receipt(context).model_dump(exclude_unset=True)
        return {**progress.told(), "images": kept, "receipt": receipt}

    async def _one(self, index: int, request: JobRequest, context: RequestContext, progress: "_Progress") -> JsonObject:
        """Apart from the job's other images: what is begun goes on where there is no room for another. While there is none for any, the
        whole job is too much."""
        while True:
            try:
                return await self._image(index, request, context, progress)
            except Overloaded as error:
                if not progress.goes_on_without(index):
                    raise
                await asyncio.sleep(min(MAX_PAUSE_S, error.retry_after_s or 1.0))
                progress.waiting.discard(index)

    async def _image(self, index: int, request: JobRequest, context: RequestContext, progress: "_Progress") -> JsonObject:
        pipeline = self.arrival.served(context.tenant).paint_pipeline(request.model)
        job, kept = replace(request.job, n=1, first=index), None
        async with aclosing(cast("AsyncGenerator[PaintEvent]", pipeline.paint(job, context))) as events:
            async for event in events:
                if isinstance(event, PaintProgress):
                    progress.heard(event)
                elif event.partial is None:
                    kept = await self._keep(event, request, context)
        if kept is None:
            raise StageFailed(f"image {index} of {request.job.n} was not painted")
        return kept

    async def _keep(self, image: PaintImage, request: JobRequest, context: RequestContext) -> JsonObject:
        height, width = image.pixels.shape[:2]
        data = await self.threads.painting.run(height * width, encode, image.pixels, request.format, quality=request.quality)
        # One of that id is of the same seed: from a process that came so far and died.
        await self.values.put(self.images, image_id(context.id, image.index), data, context)
        return {"index": image.index, "seed": image.seed, "size": f"{width}x{height}"}


def image_id(job_id: str, index: int | str) -> str:
    return f"{job_id}-{index}"


class _Progress:
    """Steps of all images of a job together, and since when. `report`: who hears of it."""

    def __init__(self, num_images: int, report: Callable[[JsonObject], None]) -> None:
        self._num_images, self._report = num_images, report
        self._done: dict[int, int] = {}
        self._total = 0
        self.waiting: set[int] = set()
        """Images that found no room."""
        self._first_at: float | None = None

    def goes_on_without(self, index: int) -> bool:
        """That image found no room. False: no image has, and none was begun."""
        self.waiting.add(index)
        return len(self.waiting) < self._num_images or self._first_at is not None

    def heard(self, event: PaintProgress) -> None:
        self._first_at = self._first_at or time.time()
        self._done[event.index], self._total = event.step, event.total * self._num_images
        self._report(self.told())

    def told(self) -> dict[str, Any]:
        return {"done": sum(self._done.values()), "total": self._total, "first_at": self._first_at, "at": time.time()}
