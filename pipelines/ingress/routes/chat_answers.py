"""What a chat's events look like over HTTP: one whole body, or chunks. Counts what `usage` says. Knows no requests and no
stages' workings: a stage's own events are written as they come.
"""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, cast

from pydantic_core import to_json

from pipelines.context import RequestContext, TokenUsage
from pipelines.ingress.request.receipts import ReceiptPrinter
from pipelines.ingress.request.sse import data_frame
from pipelines.ingress.request.whole_answer import listed
from pipelines.ingress.schemas.chats.answer import (
    AnswerMessage,
    CalledFunction,
    ChatCompletion,
    Choice,
    CompletionTokensDetails,
    Logprobs,
    PromptTokensDetails,
    TokenEntry,
    ToolCall,
    TopLogprob,
    Usage,
)
from pipelines.jobs import ChatEvent, ChatStarted, ChoiceEvents
from pipelines.tools.events import AnswerEvent, ReasoningDelta, ToolArgumentsDelta, ToolCallBegun
from stages.contract.errors import StageFailed
from stages.llm.messages import GenerationEnd, TokenDelta, TokenLogprob

Reason = Literal["stop", "length", "tool_calls"]
MAX_EVENTS_A_CHUNK = 64


@dataclass(frozen=True, slots=True)
class ChatHead:
    """What the whole answer and every chunk of a streamed one begin with."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    @classmethod
    def new(cls, model: str, fingerprint: str, context: RequestContext) -> "ChatHead":
        return cls(f"chatcmpl-{uuid.uuid4().hex}", int(context.created), model, fingerprint)


class ChatCount:
    """What `usage` says, counted as events come."""

    def __init__(self, num_choices: int) -> None:
        self.num_choices = num_choices
        self._prompt_tokens = self._reasoning_tokens = 0
        self._ends: dict[int, GenerationEnd] = {}

    def take(self, event: ChatEvent) -> None:
        match event:
            case ChatStarted(prompt_tokens):
                self._prompt_tokens = prompt_tokens
            case ChoiceEvents(index, events):
                self._reasoning_tokens += sum(one.num_tokens for one in events if isinstance(one, ReasoningDelta))
                if isinstance(events[-1], GenerationEnd):
                    self._ends[index] = events[-1]

    def ends(self) -> Sequence[GenerationEnd]:
        """Every choice's. Raises `StageFailed` where one never ended."""
        if len(self._ends) < self.num_choices:
            raise StageFailed("the answer ended before all of its choices did")
        return [self._ends[index] for index in range(self.num_choices)]

    def usage_of(self, context: RequestContext) -> Usage:
        """Of a request that is through, which is to know it, too."""
        usage = self.usage()
        context.usage = TokenUsage(usage.prompt_tokens, usage.completion_tokens)
        return usage

    def usage(self) -> Usage:
        """Exact. The prompt counts once however many choices it has; cached is what none of them had to compute."""
        ends = self.ends()
        completion_tokens = sum(end.completion_tokens for end in ends)
        thoughts = CompletionTokensDetails(reasoning_tokens=self._reasoning_tokens)
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=self._prompt_tokens + completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=min(end.cached_tokens for end in ends)),
            **({"completion_tokens_details": thoughts} if self._reasoning_tokens else {}),
        )


@dataclass(slots=True)
class _CallSoFar:
    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _ChoiceSoFar:
    text: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[_CallSoFar] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def take(self, events: Sequence[AnswerEvent]) -> None:
        for event in events:
            match event:
                case TokenDelta():
                    self.text.append(event.text)
                    self.logprobs.extend(event.logprobs)
                case ReasoningDelta():
                    self.thoughts.append(event.text)
                case ToolCallBegun():
                    self.calls.append(_CallSoFar(event.id, event.name))
                case ToolArgumentsDelta():
                    self.calls[event.index].arguments.append(event.text)
                case _:
                    pass

    def message(self) -> AnswerMessage:
        text = "".join(self.text)
        said = text if text or not (self.calls or self.thoughts) else None
        more: dict[str, Any] = {}
        if self.thoughts:
            more["reasoning_content"] = "".join(self.thoughts)
        if self.calls:
            more["tool_calls"] = [_called(call) for call in self.calls]
        return AnswerMessage(role="assistant", content=said, refusal=None, **more)


def _called(call: _CallSoFar) -> ToolCall:
    return ToolCall(id=call.id, type="function", function=CalledFunction(name=call.name, arguments="".join(call.arguments)))


class WholeChat:
    """Takes events as they come; the answer is one body at the end."""

    def __init__(self, head: ChatHead, context: RequestContext, receipts: ReceiptPrinter, *, num_choices: int) -> None:
        self._head, self._context, self._receipts = head, context, receipts
        self._count = ChatCount(num_choices)
        self._choices = [_ChoiceSoFar() for _ in range(num_choices)]

    def take(self, event: ChatEvent) -> None:
        self._count.take(event)
        if isinstance(event, ChoiceEvents):
            self._choices[event.index].take(event.events)

    @property
    def is_large(self) -> bool:
        """Whether `body` is no work for an event loop."""
        return any(choice.logprobs for choice in self._choices)

    def body(self) -> Sequence[bytes]:
        """As JSON, in pieces. Raises `StageFailed` where a choice never ended."""
        before, after = ChatCompletion(
            id=self._head.id,
            object="chat.completion",
            created=self._head.created,
            model=self._head.model,
            system_fingerprint=self._head.system_fingerprint,
            choices=[],
            usage=self._count.usage_of(self._context),
            triptych=self._receipts.receipt(self._context),
        ).around("choices")
        ended = zip(self._choices, self._count.ends(), strict=True)
        choices = [_choice(index, choice, end) for index, (choice, end) in enumerate(ended)]
        return [before, *listed(choices), after]


def _choice(index: int, so_far: _ChoiceSoFar, end: GenerationEnd) -> Sequence[bytes]:
    """Its JSON, in pieces: one a token that has logprobs."""
    choice = Choice(
        index=index,
        message=so_far.message(),
        logprobs=Logprobs(content=[], refusal=None) if so_far.logprobs else None,
        finish_reason=cast("Reason", end.reason),
    )
    if not so_far.logprobs:
        return [choice.to_json()]
    before, after = choice.around("content")  # the message's own is no list
    return [before, *listed([_token_entry(entry).to_json()] for entry in so_far.logprobs), after]


class ChunkEncoder:
    """Writes OpenAI's `chat.completion.chunk`s as frames. What is the same in all of one stream is encoded once."""

    def __init__(self, head: ChatHead, *, include_usage: bool) -> None:
        same = {
            "id": head.id,
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.system_fingerprint,
        }
        self._before = to_json(same)[:-1] + b',"choices":['
        self._after = b'],"usage":null' if include_usage else b"]"

    def delta(self, index: int, delta: Mapping[str, object], logprobs: Logprobs | None = None) -> bytes:
        """What is new of a choice."""
        return self._frame(self._choice(index, delta, logprobs, None), self._after)

    def end(self, index: int, end: GenerationEnd, extra: bytes = b"") -> bytes:
        """The end of a choice. `extra`: more members of the chunk, as JSON that begins with a comma."""
        return self._frame(self._choice(index, {}, None, end.reason), self._after + extra)

    def usage(self, usage: Usage, extra: bytes) -> bytes:
        """The chunk without choices that ends a stream whose usage was asked for."""
        return self._frame(b"", b'],"usage":' + usage.to_json() + extra)

    def _choice(self, index: int, delta: Mapping[str, object], logprobs: Logprobs | None, reason: str | None) -> bytes:
        return to_json({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason})

    def _frame(self, choice: bytes, after: bytes) -> bytes:
        return data_frame(self._before + choice + after + b"}")


class ChatStreamWriter:
    """Events into chunks: one for what was said of a choice since it was last heard. The last choice's end waits for the end of
    the stream, because the last chunk carries the receipt."""

    def __init__(
        self,
        head: ChatHead,
        context: RequestContext,
        receipts: ReceiptPrinter,
        *,
        num_choices: int,
        include_usage: bool,
        may_call: bool = False,
    ) -> None:
        self._context, self._receipts, self._include_usage, self._may_call = context, receipts, include_usage, may_call
        self._encoder, self._count = ChunkEncoder(head, include_usage=include_usage), ChatCount(num_choices)
        self._held: tuple[int, GenerationEnd] | None = None

    async def frame(self, event: ChatEvent) -> bytes:
        self._count.take(event)
        match event:
            case ChatStarted():
                begun = {"role": "assistant", "content": None if self._may_call else ""}
                return b"".join(self._encoder.delta(index, begun) for index in range(self._count.num_choices))
            case ChoiceEvents(index, events):
                return await self._all_said(index, events) + self._ended(index, events[-1])

    async def end(self) -> bytes:
        usage = self._count.usage_of(self._context)
        receipt = b',"triptych":' + self._receipts.receipt(self._context).to_json()
        if not self._include_usage:
            return self._ending(receipt)
        return self._ending() + self._encoder.usage(usage, receipt)

    async def _all_said(self, index: int, events: Sequence[AnswerEvent]) -> bytes:
        """One chunk; several, and others get their turn, where a slow reader has let much come together."""
        chunks = []
        for start in range(0, len(events), MAX_EVENTS_A_CHUNK):
            if start:
                await asyncio.sleep(0)
            chunks.append(self._said(index, events[start : start + MAX_EVENTS_A_CHUNK]))
        return b"".join(chunks)

    def _said(self, index: int, events: Sequence[AnswerEvent]) -> bytes:
        """A chunk for each run of events of one kind."""
        runs = groupby(events, key=type)
        return b"".join(self._run(index, list(run)) for _, run in runs)

    def _run(self, index: int, run: Sequence[AnswerEvent]) -> bytes:
        match run[0]:
            case TokenDelta():
                text, logprobs = text_of(run), logprobs_of(run)
                told = text or logprobs
                return self._encoder.delta(index, {"content": text}, logprobs_body(logprobs)) if told else b""
            case ReasoningDelta():
                text = "".join(event.text for event in run if isinstance(event, ReasoningDelta))
                return self._encoder.delta(index, {"reasoning_content": text})
            case ToolCallBegun() | ToolArgumentsDelta():
                return b"".join(self._encoder.delta(index, {"tool_calls": [call]}) for call in call_deltas(run))
            case _:
                return b""

    def _ended(self, index: int, last: AnswerEvent) -> bytes:
        if not isinstance(last, GenerationEnd):
            return b""
        earlier, self._held = self._held, (index, last)
        return self._encoder.end(*earlier) if earlier is not None else b""

    def _ending(self, extra: bytes = b"") -> bytes:
        return self._encoder.end(*self._held, extra) if self._held is not None else b""


def call_deltas(events: Sequence[AnswerEvent]) -> Sequence[Mapping[str, object]]:
    """As OpenAI tells calls: first whose they are, then their arguments; what came together of one call's is told together."""
    deltas: list[dict[str, object]] = []
    for event in events:
        if isinstance(event, ToolCallBegun):
            function = {"name": event.name, "arguments": ""}
            deltas.append({"index": event.index, "id": event.id, "type": "function", "function": function})
    arguments = [event for event in events if isinstance(event, ToolArgumentsDelta)]
    for index, pieces in groupby(arguments, key=lambda event: event.index):
        deltas.append({"index": index, "function": {"arguments": "".join(piece.text for piece in pieces)}})
    return deltas


def text_of(events: Sequence[AnswerEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TokenDelta))


def logprobs_of(events: Sequence[AnswerEvent]) -> Sequence[TokenLogprob]:
    return [entry for event in events if isinstance(event, TokenDelta) for entry in event.logprobs]


def logprobs_body(entries: Sequence[TokenLogprob]) -> Logprobs | None:
    """None where there are none."""
    if not entries:
        return None
    return Logprobs(content=[_token_entry(entry) for entry in entries], refusal=None)


def _token_entry(entry: TokenLogprob) -> TokenEntry:
    return TokenEntry(
        token=entry.text,
        logprob=_finite(entry.logprob),
        bytes=list(entry.data),
        top_logprobs=[
            TopLogprob(token=other.text, logprob=_finite(other.logprob), bytes=list(other.data)) for other in entry.top
        ],
    )


def _finite(logprob: float) -> float:
    """JSON has no infinities; OpenAI says -9999 for what is next to impossible."""
    return max(logprob, -9999.0)
