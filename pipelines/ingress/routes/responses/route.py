"""POST /v1/responses: a chat in OpenAI's newer shape. Each request stands for itself: nothing is stored. Knows no stages."""

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from fastapi import Request
from fastapi import Response as HttpResponse
from pydantic_core import to_json

from pipelines.context import RequestContext
from pipelines.ingress.body.bodies import checked
from pipelines.ingress.request.arrival import Arrival
from pipelines.ingress.request.disconnect import unless_gone
from pipelines.ingress.request.receipts import ReceiptPrinter
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.request.sse import EventStream, opened
from pipelines.ingress.request.whole_answer import WholeAnswer
from pipelines.ingress.routes.chat import STREAM_PACE_S
from pipelines.ingress.routes.chat_question import PART_BYTES
from pipelines.ingress.routes.responses.answer import Begun, Response, ResponseHead, ResponseStreamWriter, Told
from pipelines.ingress.routes.responses.conversation import Names, as_chat
from pipelines.ingress.routes.responses.output import Output
from pipelines.ingress.routes.responses.painting import Painter
from pipelines.ingress.routes.texts.tokens import ChatJobs
from pipelines.ingress.schemas.chat import ChatBody
from pipelines.ingress.schemas.responses import ResponsesBody
from pipelines.jobs import ChatEvent, ChatJob, ChatPipeline, ChatStarted
from pipelines.threads import Threads
from stages.contract.errors import InvalidRequest, StageFailed


@dataclass(frozen=True, slots=True)
class ResponsesRoute:
    arrival: Arrival
    settings: IngressSettings
    receipts: ReceiptPrinter
    chats: ChatJobs
    threads: Threads

    async def __call__(self, request: Request) -> HttpResponse:
        context = self.arrival.open(request)
        body = await self.arrival.read(request, ResponsesBody, context)
        served = self.arrival.served(context.tenant)
        pipeline = served.chat_pipeline(body.model)
        painter = Painter.of(body, served, self.settings, self.threads)
        if painter is not None:
            await unless_gone(request.receive, context, painter.check(context))
        job, names = await unless_gone(request.receive, context, self._job(body, context))
        request.state.asked_as = names
        response = Response(
            ResponseHead.new(body, job.sampling, context), Output(paints=painter is not None), context, self.receipts
        )
        stream = bool(body.stream)
        del body
        told = _told(pipeline, job, painter, response, context)
        if stream:
            context.pace_s = STREAM_PACE_S
            events = await unless_gone(request.receive, context, opened(told, self.settings.headers_within_s))
            writer = ResponseStreamWriter(response, self.threads)
            return EventStream(request, context, events, writer, heartbeat_s=self.settings.heartbeat_s)
        context.pace_s = math.inf if job.sampling.logprobs is None else STREAM_PACE_S
        await unless_gone(request.receive, context, _to_the_end(told))
        ended = response.ended()
        return WholeAnswer([await self.threads.answers.run(to_json, ended) if response.is_large else to_json(ended)])

    async def _job(self, body: ResponsesBody, context: RequestContext) -> tuple[ChatJob, Names]:
        """Raises `InvalidRequest` with the names of this body's fields."""
        document, names = as_chat(body)
        try:
            size = PART_BYTES * len(document["messages"])
            chat = await self.threads.parsing.run(size, checked, document, ChatBody)
            return await self.chats.job(chat, context), names
        except InvalidRequest as error:
            raise error.for_request(names.get(error.param or "")) from None


async def _told(
    pipeline: ChatPipeline, job: ChatJob, painter: Painter | None, response: Response, context: RequestContext
) -> AsyncGenerator[Told]:
    """What is said of the answer; then what it wants painted is painted, one after the other."""
    output = response.output
    async with aclosing(cast("AsyncGenerator[ChatEvent]", pipeline.chat(job, context))) as heard:
        async for event in heard:
            if isinstance(event, ChatStarted):
                response.input_tokens = event.prompt_tokens
                yield Begun()
            else:
                yield [told for said in event.events for told in output.take(said)]
    if not output.paintings:
        return
    if painter is None:
        raise StageFailed("something is to be painted that nobody asked for")
    async with aclosing(painter.all_painted(output.paintings, context)) as painted:
        async for told in painted:
            yield [told]


async def _to_the_end(told: AsyncGenerator[Told]) -> None:
    async with aclosing(told):
        async for _ in told:
            pass
