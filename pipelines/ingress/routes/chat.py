"""POST /v1/chat/completions. What a body asks is found in `chat_question.py`, what the answer looks like in `chat_answers.py`. Knows no
stages."""

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from fastapi import Request, Response

from pipelines.context import RequestContext
from pipelines.ingress.request.arrival import Arrival
from pipelines.ingress.request.disconnect import unless_gone
from pipelines.ingress.request.receipts import ReceiptPrinter
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.request.sse import DONE, EventStream, opened
from pipelines.ingress.request.whole_answer import WholeAnswer
from pipelines.ingress.routes.chat_answers import ChatHead, ChatStreamWriter, WholeChat
from pipelines.ingress.routes.chat_question import ChatQuestions
from pipelines.ingress.schemas.chat import ChatBody
from pipelines.jobs import ChatEvent, ChatJob, ChatPipeline
from pipelines.threads import Threads

STREAM_PACE_S = 0.025  # nobody reads faster, and every event costs its way


@dataclass(frozen=True, slots=True)
class ChatQuestion:
    """What is needed of a body once its job is made; the images' base64 is not kept."""

    job: ChatJob
    model: str
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True)
class ChatRoute:
    arrival: Arrival
    settings: IngressSettings
    questions: ChatQuestions
    receipts: ReceiptPrinter
    threads: Threads

    async def __call__(self, request: Request) -> Response:
        context = self.arrival.open(request)
        body = await self.arrival.read(request, ChatBody, context)
        pipeline = self.arrival.served(context.tenant).chat_pipeline(body.model)
        asked = await unless_gone(request.receive, context, self._question(body, context))
        del body
        head = ChatHead.new(asked.model, self.settings.fingerprint, context)
        if asked.stream:
            return await self._streamed(request, context, pipeline, asked, head)
        # With logprobs there is too much to say for it to come all at once.
        context.pace_s = math.inf if asked.job.sampling.logprobs is None else STREAM_PACE_S
        answer = WholeChat(head, context, self.receipts, num_choices=asked.job.n)
        await unless_gone(request.receive, context, _collect(pipeline, asked.job, context, answer))
        return WholeAnswer(await self.threads.answers.run(answer.body) if answer.is_large else answer.body())

    async def _streamed(
        self, request: Request, context: RequestContext, pipeline: ChatPipeline, asked: ChatQuestion, head: ChatHead
    ) -> Response:
        context.pace_s = STREAM_PACE_S
        opening = opened(pipeline.chat(asked.job, context), self.settings.headers_within_s)
        events = await unless_gone(request.receive, context, opening)
        writer = ChatStreamWriter(
            head,
            context,
            self.receipts,
            num_choices=asked.job.n,
            include_usage=asked.include_usage,
            may_call=asked.job.tools is not None,
        )
        return EventStream(request, context, events, writer, heartbeat_s=self.settings.heartbeat_s, done=DONE)

    async def job(self, body: ChatBody, context: RequestContext) -> ChatJob:
        """What a body asks, whatever is to be done with it. Raises `InvalidRequest`."""
        return await self.questions.job(body, context)

    async def _question(self, body: ChatBody, context: RequestContext) -> ChatQuestion:
        return ChatQuestion(
            job=await self.job(body, context),
            model=body.model,
            stream=bool(body.stream),
            include_usage=bool(body.stream_options and body.stream_options.include_usage),
        )


async def _collect(pipeline: ChatPipeline, job: ChatJob, context: RequestContext, answer: WholeChat) -> None:
    async with aclosing(cast("AsyncGenerator[ChatEvent]", pipeline.chat(job, context))) as events:
        async for event in events:
            answer.take(event)
