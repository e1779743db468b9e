"""POST /v1/completions: from its body to a `CompleteJob`. What the answer looks like is `completion_answers.py`. Knows no stages."""

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from fastapi import Request, Response

from pipelines.context import RequestContext
from pipelines.ingress.request.arrival import Arrival
from pipelines.ingress.request.disconnect import unless_gone
from pipelines.ingress.request.limits import check_count, check_length, check_value
from pipelines.ingress.request.receipts import ReceiptPrinter
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.request.sse import DONE, EventStream, opened
from pipelines.ingress.request.whole_answer import WholeAnswer
from pipelines.ingress.routes.chat import STREAM_PACE_S
from pipelines.ingress.routes.texts.completion_answers import (
    CompletionHead,
    CompletionShape,
    CompletionStreamWriter,
    WholeCompletion,
)
from pipelines.ingress.routes.texts.language_models import how_asked
from pipelines.ingress.schemas.completions import CompletionsBody
from pipelines.jobs import CompleteJob, CompletionEvent, PlainPrompt, TextPipeline
from pipelines.threads import Threads
from stages.contract.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class CompletionsRoute:
    arrival: Arrival
    settings: IngressSettings
    receipts: ReceiptPrinter
    threads: Threads

    async def __call__(self, request: Request) -> Response:
        context = self.arrival.open(request)
        body = await self.arrival.read(request, CompletionsBody, context)
        served = self.arrival.served(context.tenant)
        pipeline = served.text_pipeline(body.model)
        _check(body, self.settings)
        job = CompleteJob(_prompts(body, self.settings), body.sampling(how_asked(served, body.model)), body.n or 1)
        _check_choices(job, self.settings)
        shape = CompletionShape(len(job.prompts), job.n, bool(body.echo), body.logprobs is not None)
        head = CompletionHead.new(body.model, self.settings.fingerprint, context)
        stream, include_usage = bool(body.stream), bool(body.stream_options and body.stream_options.include_usage)
        del body
        if stream:
            context.pace_s = STREAM_PACE_S
            opening = opened(pipeline.complete(job, context), self.settings.headers_within_s)
            events = await unless_gone(request.receive, context, opening)
            writer = CompletionStreamWriter(head, context, self.receipts, shape, include_usage=include_usage)
            return EventStream(request, context, events, writer, heartbeat_s=self.settings.heartbeat_s, done=DONE)
        context.pace_s = STREAM_PACE_S if shape.logprobs else math.inf
        answer = WholeCompletion(head, context, self.receipts, shape)
        await unless_gone(request.receive, context, _collect(pipeline, job, context, answer))
        return WholeAnswer(await self.threads.answers.run(answer.body) if shape.logprobs else answer.body())


async def _collect(pipeline: TextPipeline, job: CompleteJob, context: RequestContext, answer: WholeCompletion) -> None:
    async with aclosing(cast("AsyncGenerator[CompletionEvent]", pipeline.complete(job, context))) as events:
        async for event in events:
            answer.take(event)


def _prompts(body: CompletionsBody, settings: IngressSettings) -> tuple[PlainPrompt, ...]:
    """Raises `InvalidRequest`."""
    given = body.prompt
    contents: Sequence[str | Sequence[int]]
    if isinstance(given, str) or isinstance(given[0], int):
        contents = [cast("str | Sequence[int]", given)]
    else:
        contents = cast("Sequence[str | Sequence[int]]", given)
    check_length(sum(len(content) for content in contents if isinstance(content, str)), settings.limits, param="prompt")
    has_marks = body.add_special_tokens is not False
    return tuple(
        PlainPrompt(content if isinstance(content, str) else tuple(content), param, has_marks)
        for content, param in zip(contents, _params(len(contents)), strict=True)
    )


def _params(num_prompts: int) -> Sequence[str]:
    return ["prompt"] if num_prompts == 1 else [f"prompt[{index}]" for index in range(num_prompts)]


def _check_choices(job: CompleteJob, settings: IngressSettings) -> None:
    num_choices = len(job.prompts) * job.n
    check_count(num_choices, settings.limits, "completion_choices", param="prompt", holds="prompts (times n)")


def _check(body: CompletionsBody, settings: IngressSettings) -> None:
    """Raises `InvalidRequest` for fields that don't go together, and for a bound over the configured one."""
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options is allowed only with stream: true", param="stream_options")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise InvalidRequest(
            f"best_of {body.best_of} is not supported: no answers are made that are not shown; "
            f"leave it out, or give n ({body.n or 1})",
            param="best_of",
        )
    if body.max_tokens == 0 and not body.echo:
        raise InvalidRequest("max_tokens 0 is allowed only with echo: true; there is nothing else to tell", param="max_tokens")
    check_value(body.n, settings.limits, "max_choices", param="n")
    check_value(body.max_tokens, settings.limits, "max_tokens", param="max_tokens")
