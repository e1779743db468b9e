"""POST /v1/chat/completions: from its body to a `ChatJob`. What the answer looks like is `chat_answers.py`. Knows no
stages."""

import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, cast

from fastapi import Request, Response

from pipelines.context import RequestContext
from pipelines.ingress.images.image_url import ImageSource, WantedImage
from pipelines.ingress.request.arrival import Arrival
from pipelines.ingress.request.disconnect import unless_gone
from pipelines.ingress.request.limits import check_count, check_length, check_value
from pipelines.ingress.request.receipts import ReceiptPrinter
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.request.sse import DONE, EventStream, opened
from pipelines.ingress.request.whole_answer import WholeAnswer
from pipelines.ingress.routes.chat_answers import ChatHead, ChatStreamWriter, WholeChat
from pipelines.ingress.schemas.chat import (
    MAX_PARTS_IN_ALL,
    ChatBody,
    ChatImageAddress,
    ChatMessage,
    ImageContent,
    SystemMessage,
    TextContent,
)
from pipelines.jobs import ChatEvent, ChatJob, ChatPipeline, ImagePart, Message, ModelCard, TextPart
from pipelines.threads import Threads
from stages.contract.errors import InvalidRequest, UnknownModel
from stages.llm.messages import Sampling

STREAM_PACE_S = 0.025  # nobody reads faster, and every event costs its way
PART_BYTES = 64  # of a body that is as much work as a part of a message
Role = Literal["system", "user", "assistant"]


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
    images: ImageSource
    receipts: ReceiptPrinter
    threads: Threads

    async def __call__(self, request: Request) -> Response:
        context = self.arrival.open(request)
        body = await self.arrival.read(request, ChatBody, context)
        pipeline = self.arrival.served(context.tenant).chat_pipeline(body.model)
        asked = await unless_gone(request.receive, context, self._question(body))
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
        writer = ChatStreamWriter(head, context, self.receipts, num_choices=asked.job.n, include_usage=asked.include_usage)
        return EventStream(request, context, events, writer, heartbeat_s=self.settings.heartbeat_s, done=DONE)

    async def job(self, body: ChatBody, context: RequestContext) -> ChatJob:
        """What a body asks, whatever is to be done with it. Raises `InvalidRequest`."""
        return (await self._question(body)).job

    async def _question(self, body: ChatBody) -> ChatQuestion:
        n = body.n or 1
        _check(body, self.settings)
        check_value(n, self.settings.limits, "max_choices", param="n")
        messages = await self._messages(body.messages)
        defaults = _defaults(self.arrival.service.models(), body.model)
        unbounded = body.max_tokens is None and body.max_completion_tokens is None
        return ChatQuestion(
            job=ChatJob(messages=messages, sampling=body.sampling(defaults), n=n, may_shorten=unbounded),
            model=body.model,
            stream=bool(body.stream),
            include_usage=bool(body.stream_options and body.stream_options.include_usage),
        )

    async def _messages(self, messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
        num_parts = _num_parts(messages)
        if num_parts > MAX_PARTS_IN_ALL:
            raise InvalidRequest(f"messages hold {num_parts} parts; at most {MAX_PARTS_IN_ALL} in all", param="messages")
        size = num_parts * PART_BYTES
        num_chars, addresses = await self.threads.parsing.run(size, _looked_through, messages)
        check_length(num_chars, self.settings.limits, param="messages")
        self._check_images(addresses)
        images = await self.images.load([_wanted(where, param) for param, where in addresses])
        return await self.threads.parsing.run(size, _with_images, messages, images)

    def _check_images(self, addresses: Sequence[tuple[str, ChatImageAddress]]) -> None:
        limits = self.settings.limits
        at_fault = addresses[limits.images_per_request][0] if len(addresses) > limits.images_per_request else ""
        check_count(len(addresses), limits, "images_per_request", param=at_fault, holds="images", where="messages")


def _defaults(cards: Sequence[ModelCard], model: str) -> Sampling:
    """How a model is asked where a request says nothing. Raises `UnknownModel` for one that doesn't chat."""
    for card in cards:
        if card.id == model and card.sampling is not None:
            return card.sampling
    raise UnknownModel(f"model {model!r} answers no chats", param="model")


async def _collect(pipeline: ChatPipeline, job: ChatJob, context: RequestContext, answer: WholeChat) -> None:
    async with aclosing(cast("AsyncGenerator[ChatEvent]", pipeline.chat(job, context))) as events:
        async for event in events:
            answer.take(event)


def _num_parts(messages: Sequence[ChatMessage]) -> int:
    return sum(1 if isinstance(message.content, str) else len(message.content) for message in messages)


def _looked_through(messages: Sequence[ChatMessage]) -> tuple[int, Sequence[tuple[str, ChatImageAddress]]]:
    """How many characters of text there are, and where the images are, each with its field."""
    addresses = [
        (f"messages[{row}].content[{column}].image_url.url", part.image_url)
        for row, message in enumerate(messages)
        if not isinstance(message.content, str)
        for column, part in enumerate(message.content)
        if isinstance(part, ImageContent)
    ]
    return sum(map(_text_chars, messages)), addresses


def _wanted(where: ChatImageAddress, param: str) -> WantedImage:
    return WantedImage(where.url, param, low_detail=where.detail == "low")


def _with_images(messages: Sequence[ChatMessage], images: Sequence[ImagePart]) -> tuple[Message, ...]:
    """`images`: in the order of the messages."""
    left = iter(images)
    return tuple(Message(_role(message), _parts(message, left)) for message in messages)


def _role(message: ChatMessage) -> Role:
    return "system" if isinstance(message, SystemMessage) else message.role


def _parts(message: ChatMessage, images: Iterator[ImagePart]) -> tuple[TextPart | ImagePart, ...]:
    if isinstance(message.content, str):
        return (TextPart(message.content),)
    return tuple(TextPart(part.text) if isinstance(part, TextContent) else next(images) for part in message.content)


def _text_chars(message: ChatMessage) -> int:
    if isinstance(message.content, str):
        return len(message.content)
    return sum(len(part.text) for part in message.content if isinstance(part, TextContent))


def _check(body: ChatBody, settings: IngressSettings) -> None:
    """Raises `InvalidRequest` for fields that don't go together, and for a bound over the configured one."""
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options is allowed only with stream: true", param="stream_options")
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs is allowed only with logprobs: true", param="top_logprobs")
    bounds = {"max_tokens": body.max_tokens, "max_completion_tokens": body.max_completion_tokens}
    if len({bound for bound in bounds.values() if bound is not None}) > 1:
        raise InvalidRequest(
            f"max_tokens {body.max_tokens} and max_completion_tokens {body.max_completion_tokens} mean the same; give one",
            param="max_completion_tokens",
        )
    for name, bound in bounds.items():
        check_value(bound, settings.limits, "max_tokens", param=name)
