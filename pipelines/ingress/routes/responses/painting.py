"""What a model wants painted, painted: the `image_generation` tool of /v1/responses.

Decides who paints (the painter that the tool names, or the first that whoever asks may ask), how much of what the model wants is painted,
and that the tool's fields mean what they mean on /v1/images/generations. Knows no stages.
"""

import base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, cast

from pipelines.context import RequestContext
from pipelines.ingress.body.bodies import checked
from pipelines.ingress.request.limits import check_length
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.routes.painting.asked import image_output, paint_job
from pipelines.ingress.routes.painting.image_answers import ImageOutput
from pipelines.ingress.routes.responses.conversation import painting_tool
from pipelines.ingress.routes.responses.output import Event, OutputItem, prompt_of
from pipelines.ingress.schemas.images import GENERATION_EVENTS, ImagesBody
from pipelines.ingress.schemas.responses import PaintingTool, ResponsesBody
from pipelines.jobs import PaintEvent, PaintImage, PaintJob, PaintPipeline, Service
from pipelines.threads import Threads
from stages.contract.errors import InvalidRequest, StageFailed
from stages.images.image import encode

STANDS_FOR_THE_PROMPT = "an image"


@dataclass(frozen=True, slots=True)
class Painter:
    """`job`: but for its prompt. `most`: paintings of one answer. `place`: the tool's, in the body; `asked_as`: what its fields are called
    there."""

    pipeline: PaintPipeline
    job: PaintJob
    output: ImageOutput
    most: int
    place: str
    asked_as: Mapping[str, str]
    settings: IngressSettings
    threads: Threads

    @classmethod
    def of(cls, asked: ResponsesBody, served: Service, settings: IngressSettings, threads: Threads) -> "Painter | None":
        """None: nothing is to be painted. Raises `InvalidRequest`, also for a painter that is not served."""
        found = painting_tool(asked)
        if found is None:
            return None
        place, tool = f"tools[{found[0]}]", found[1]
        most = min(asked.max_tool_calls or settings.limits.max_images, settings.limits.max_images)
        try:
            document: dict[str, Any] = tool.model_dump(exclude_none=True, exclude={"type", "action"})
            document |= {"model": _painter(tool, served), "prompt": STANDS_FOR_THE_PROMPT}
            document |= {"stream": True} if tool.partial_images else {}
            body = checked(document, ImagesBody)
            pipeline, job = served.paint_pipeline(body.model), paint_job(body, settings, None)
            output = image_output(body, GENERATION_EVENTS)
        except InvalidRequest as error:
            raise error.for_request(f"{place}.{error.param}" if error.param else None) from None
        return cls(pipeline, job, output, most, place, body.asked_as(), settings, threads)

    async def check(self, context: RequestContext) -> None:
        """Whether the model paints what the tool asks for, whatever the prompt will be. Raises `InvalidRequest`."""
        try:
            await self.pipeline.forecast(self.job, context)
        except InvalidRequest as error:
            raise self._as_asked(error) from None

    async def all_painted(self, items: Sequence[OutputItem], context: RequestContext) -> AsyncGenerator[Event]:
        """One after the other. Raises any `TriptychError`."""
        for place, item in enumerate(items):
            prompt = prompt_of(item) if place < self.most else None
            if prompt is None:
                item.told = {**item.told, "status": "failed"}
                yield item.event("output_item.done")
                continue
            async with aclosing(self._painted(item, prompt, context)) as told:
                async for event in told:
                    yield event

    async def _painted(self, item: OutputItem, prompt: str, context: RequestContext) -> AsyncGenerator[Event]:
        """The events of one painting; its item is done behind the last."""
        check_length(len(prompt), self.settings.limits, param="input")
        yield Event("image_generation_call.generating", item.place())
        job, result = replace(self.job, prompt=prompt), ""
        async with aclosing(self._images(job, context)) as events:
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

    async def _images(self, job: PaintJob, context: RequestContext) -> AsyncGenerator[PaintEvent]:
        try:
            async with aclosing(cast("AsyncGenerator[PaintEvent]", self.pipeline.paint(job, context))) as events:
                async for event in events:
                    yield event
        except InvalidRequest as error:
            raise self._as_asked(error) from None

    def _as_asked(self, error: InvalidRequest) -> InvalidRequest:
        """With the tool's field; what is wrong with a prompt comes of the whole input."""
        if error.param is None or error.param == "prompt":
            return error.for_request("input" if error.param else None)
        return error.for_request(f"{self.place}.{self.asked_as.get(error.param, error.param)}")

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
