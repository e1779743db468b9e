"""What a model wants painted, painted: the `image_generation` tool of /v1/responses.

Decides who paints (the painter that the tool names, or the first that whoever asks may ask) and that the tool's fields mean what they
mean on /v1/images/generations. Knows no stages.
"""

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, cast

from pipelines.context import RequestContext
from pipelines.ingress.body.bodies import checked
from pipelines.ingress.request.limits import check_length
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.routes.painting.asked import image_output, paint_job
from pipelines.ingress.routes.painting.image_answers import ImageOutput
from pipelines.ingress.routes.responses.output import Event, OutputItem, prompt_of
from pipelines.ingress.schemas.images import GENERATION_EVENTS, ImagesBody
from pipelines.ingress.schemas.responses import PaintingTool
from pipelines.jobs import PaintEvent, PaintImage, PaintJob, PaintPipeline, Service
from pipelines.threads import Threads
from stages.contract.errors import InvalidRequest, StageFailed
from stages.images.image import encode

STANDS_FOR_THE_PROMPT = "an image"


@dataclass(frozen=True, slots=True)
class Painter:
    """`job`: but for its prompt."""

    pipeline: PaintPipeline
    job: PaintJob
    output: ImageOutput
    settings: IngressSettings
    threads: Threads

    @classmethod
    def of(cls, tool: PaintingTool, place: int, served: Service, settings: IngressSettings, threads: Threads) -> "Painter":
        """Raises `InvalidRequest`, also for a painter that is not served."""
        try:
            document: dict[str, Any] = tool.model_dump(exclude_none=True, exclude={"type", "action"})
            document |= {"model": _painter(tool, served), "prompt": STANDS_FOR_THE_PROMPT}
            document |= {"stream": True} if tool.partial_images else {}
            body = checked(document, ImagesBody)
            pipeline = served.paint_pipeline(body.model)
            return cls(pipeline, paint_job(body, settings, None), image_output(body, GENERATION_EVENTS), settings, threads)
        except InvalidRequest as error:
            raise error.for_request(f"tools[{place}].{error.param}" if error.param else None) from None

    async def painted(self, item: OutputItem, context: RequestContext) -> AsyncGenerator[Event]:
        """The events of one painting; its item is done behind the last. Raises any `TriptychError`."""
        prompt = prompt_of(item)
        if prompt is None:
            item.told = {**item.told, "status": "failed"}
            yield item.event("output_item.done")
            return
        check_length(len(prompt), self.settings.limits, param="input")
        yield Event("image_generation_call.generating", item.place())
        job, result = replace(self.job, prompt=prompt), ""
        async with aclosing(cast("AsyncGenerator[PaintEvent]", self.pipeline.paint(job, context))) as events:
            async for event in events:
                if isinstance(event, PaintImage) and event.partial is None:
                    result = await self._encoded(event)
                elif isinstance(event, PaintImage):
                    yield await self._partial(event, item)
        if not result:
            raise StageFailed("the painting ended before its image was finished")
        yield Event("image_generation_call.completed", item.place())
        item.told = {**item.told, "status": "completed", "result": result, "revised_prompt": prompt}
        item.told |= {"output_format": self.output.format, "background": "opaque", "quality": "auto"}
        yield item.event("output_item.done")

    async def _partial(self, image: PaintImage, item: OutputItem) -> Event:
        told = {"partial_image_index": image.partial, "partial_image_b64": await self._encoded(image)}
        return Event("image_generation_call.partial_image", {**item.place(), **told, "output_format": self.output.format})

    async def _encoded(self, image: PaintImage) -> str:
        height, width = image.pixels.shape[:2]
        return await self.threads.painting.run(height * width, self._base64, image)

    def _base64(self, image: PaintImage) -> str:
        return base64.b64encode(encode(image.pixels, self.output.format, quality=self.output.quality)).decode()


def _painter(tool: PaintingTool, served: Service) -> str:
    if tool.model is not None:
        return tool.model
    painters = [card.id for card in served.models() if card.pipeline == "text_to_image"]
    if not painters:
        raise InvalidRequest("type image_generation is not supported: no model that is served here paints", param="type")
    return painters[0]
