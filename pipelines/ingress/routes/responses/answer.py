"""What an answer of /v1/responses looks like: one `response` object, or the events of a stream that ends with it. Knows no pipelines."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from pipelines.context import RequestContext, TokenUsage
from pipelines.ingress.request.receipts import ReceiptPrinter
from pipelines.ingress.request.sse import data_frame
from pipelines.ingress.routes.responses.output import Event, Output
from pipelines.ingress.schemas.responses import ResponsesBody
from pipelines.threads import Threads
from stages.contract.errors import StageFailed
from stages.llm.messages import Sampling

JsonObject = dict[str, Any]
LARGE_BYTES = 64 * 1024  # no work for an event loop


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What every `response` object of a request says: what was asked, and how it is done."""

    fields: JsonObject

    @classmethod
    def new(cls, body: ResponsesBody, sampling: Sampling, context: RequestContext) -> "ResponseHead":
        asked = body.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"input"})
        reasoning = asked.get("reasoning") or {}
        return cls(
            {
                "id": f"resp_{uuid.uuid4().hex}",
                "object": "response",
                "created_at": int(context.created),
                "model": body.model,
                "background": False,
                "error": None,
                "instructions": body.instructions,
                "max_output_tokens": body.max_output_tokens,
                "max_tool_calls": body.max_tool_calls,
                "metadata": asked.get("metadata") or {},
                "parallel_tool_calls": body.parallel_tool_calls is not False,
                "previous_response_id": None,
                "prompt_cache_key": body.prompt_cache_key,
                "reasoning": {"effort": reasoning.get("effort"), "summary": None},
                "safety_identifier": body.safety_identifier,
                "service_tier": "default",
                "store": False,
                "temperature": sampling.temperature,
                "text": {"format": {"type": "text"}} | (asked.get("text") or {}),
                "tool_choice": asked.get("tool_choice") or "auto",
                "tools": asked.get("tools") or [],
                "top_logprobs": body.top_logprobs or 0,
                "top_p": sampling.top_p,
                "truncation": "disabled",
                "user": body.user,
            }
        )


class Response:
    """One answer, as it grows."""

    def __init__(self, head: ResponseHead, output: Output, context: RequestContext, receipts: ReceiptPrinter) -> None:
        self.output = output
        self.input_tokens = 0
        self._head, self._context, self._receipts = head, context, receipts

    def begun(self) -> JsonObject:
        return {**self._head.fields, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}

    def ended(self) -> JsonObject:
        """Raises `StageFailed` where the answer never ended."""
        end = self.output.end
        if end is None:
            raise StageFailed("the answer ended before it was complete")
        is_cut = self.output.is_cut
        self._context.usage = TokenUsage(self.input_tokens, end.completion_tokens)
        return {
            **self._head.fields,
            "status": "incomplete" if is_cut else "completed",
            "completed_at": None if is_cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": self.output.told(),
            "usage": {
                "input_tokens": self.input_tokens,
                "input_tokens_details": {"cached_tokens": end.cached_tokens, "cache_write_tokens": 0},
                "output_tokens": end.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": self.output.reasoning_tokens},
                "total_tokens": self.input_tokens + end.completion_tokens,
            },
            "triptych": self._receipts.receipt(self._context).model_dump(mode="json", exclude_unset=True),
        }

    @property
    def is_large(self) -> bool:
        return bool(self.output.paintings) or any(item.logprobs for item in self.output.items)


@dataclass(frozen=True, slots=True)
class Begun:
    """The answer has begun: headers may be sent."""


Told = Begun | Sequence[Event]


class ResponseStreamWriter:
    """Events into frames, numbered."""

    def __init__(self, response: Response, threads: Threads) -> None:
        self._response, self._threads = response, threads
        self._number = 0

    async def frame(self, told: Told) -> bytes:
        if isinstance(told, Begun):
            begun = {"response": self._response.begun()}
            return self._frame(Event("created", begun)) + self._frame(Event("in_progress", begun))
        return b"".join([await self._written(event) for event in told])

    async def end(self) -> bytes:
        ended = self._response.ended()
        return await self._written(Event(str(ended["status"]), {"response": ended}))

    async def _written(self, event: Event) -> bytes:
        large = self._response.is_large and event.type in ("completed", "incomplete", "output_item.done")
        return await self._threads.answers.run(self._frame, event) if large else self._frame(event)

    def _frame(self, event: Event) -> bytes:
        type = f"response.{event.type}"
        body = to_json({"type": type, "sequence_number": self._number, **event.fields})
        self._number += 1
        return data_frame(body, event=type)
