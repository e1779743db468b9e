"""What a chat's events look like over HTTP: one whole body, or chunks. Counts what `usage` says. Knows no requests and no
stages."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from pipelines.context import RequestContext
from pipelines.ingress.request.receipts import ReceiptPrinter
from pipelines.ingress.request.sse import data_frame
from pipelines.ingress.schemas.chat import (
    AnswerMessage,
    ChatChunk,
    ChatCompletion,
    Choice,
    ChunkChoice,
    Delta,
    Logprobs,
    PromptTokensDetails,
    TokenEntry,
    TopLogprob,
    Usage,
)
from pipelines.ingress.schemas.receipt import Receipt
from pipelines.jobs import ChatChoiceEnd, ChatDelta, ChatEvent, ChatStarted
from stages.contract.errors import StageFailed
from stages.llm.messages import TokenLogprob

Reason = Literal["stop", "length"]


@dataclass(slots=True)
class _ChoiceSoFar:
    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    end: ChatChoiceEnd | None = None


class ChatAnswer:
    """Takes events as they come, and tells at any time what it knows."""

    def __init__(
        self, model: str, fingerprint: str, context: RequestContext, receipts: ReceiptPrinter, *, num_choices: int
    ) -> None:
        self.model, self.fingerprint, self.num_choices = model, fingerprint, num_choices
        self.id, self.created = f"chatcmpl-{uuid.uuid4().hex}", int(context.created)
        self._context, self._receipts = context, receipts
        self._prompt_tokens = 0
        self._choices = [_ChoiceSoFar() for _ in range(num_choices)]

    def take(self, event: ChatEvent, *, keep_text: bool = True) -> None:
        match event:
            case ChatStarted():
                self._prompt_tokens = event.prompt_tokens
            case ChatDelta() if keep_text:
                choice = self._choices[event.index]
                choice.text.append(event.text)
                choice.logprobs.extend(event.logprobs)
            case ChatChoiceEnd():
                self._choices[event.index].end = event

    def usage(self) -> Usage:
        """Exact. The prompt counts once however many choices it has; cached is what none of them had to compute."""
        ends = self._ends()
        completion_tokens = sum(end.completion_tokens for end in ends)
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=self._prompt_tokens + completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=min(end.cached_tokens for end in ends)),
        )

    def receipt(self) -> Receipt:
        return self._receipts.receipt(self._context)

    def whole(self) -> ChatCompletion:
        """Raises `StageFailed` where a choice never ended."""
        return ChatCompletion(
            id=self.id,
            object="chat.completion",
            created=self.created,
            model=self.model,
            system_fingerprint=self.fingerprint,
            choices=[
                Choice(
                    index=index,
                    message=AnswerMessage(role="assistant", content="".join(choice.text), refusal=None),
                    logprobs=logprobs_body(choice.logprobs),
                    finish_reason=cast("Reason", end.reason),
                )
                for index, (choice, end) in enumerate(zip(self._choices, self._ends(), strict=True))
            ],
            usage=self.usage(),
            triptych=self.receipt(),
        )

    def _ends(self) -> list[ChatChoiceEnd]:
        ends = [choice.end for choice in self._choices if choice.end is not None]
        if len(ends) < len(self._choices):
            raise StageFailed("the answer ended before all of its choices did")
        return ends


class ChatStreamWriter:
    """Events into chunks. The last choice's end waits for the end of the stream, because the last chunk carries the
    receipt."""

    def __init__(self, answer: ChatAnswer, *, include_usage: bool) -> None:
        self._answer, self._include_usage = answer, include_usage
        self._held: ChatChoiceEnd | None = None

    async def frames(self, events: Sequence[ChatEvent]) -> bytes:
        return b"".join(self._frame(choices) for choices in self._chunks(events))

    async def end(self) -> bytes:
        usage, receipt = self._answer.usage(), self._answer.receipt()
        last = [_end_choice(self._held)] if self._held is not None else []
        if not self._include_usage:
            return self._frame(last, receipt=receipt)
        return (self._frame(last) if last else b"") + self._frame([], usage=usage, receipt=receipt)

    def _chunks(self, events: Iterable[ChatEvent]) -> Iterator[list[ChunkChoice]]:
        for event in coalesced(events):
            self._answer.take(event, keep_text=False)
            match event:
                case ChatStarted():
                    for index in range(self._answer.num_choices):
                        yield [_chunk_choice(index, Delta(role="assistant", content=""))]
                case ChatDelta():
                    if event.text or event.logprobs:
                        yield [_chunk_choice(event.index, Delta(content=event.text), logprobs=logprobs_body(event.logprobs))]
                case ChatChoiceEnd():
                    if self._held is not None:
                        yield [_end_choice(self._held)]
                    self._held = event

    def _frame(self, choices: list[ChunkChoice], *, usage: Usage | None = None, receipt: Receipt | None = None) -> bytes:
        answer = self._answer
        fields = {"usage": usage} if self._include_usage else {}
        chunk = ChatChunk(
            id=answer.id,
            object="chat.completion.chunk",
            created=answer.created,
            model=answer.model,
            system_fingerprint=answer.fingerprint,
            choices=choices,
            **fields,
            **({"triptych": receipt} if receipt is not None else {}),
        )
        return data_frame(chunk.to_json())


def coalesced(events: Iterable[ChatEvent]) -> Iterator[ChatEvent]:
    """Neighbouring deltas of one choice as one."""
    held: ChatDelta | None = None
    for event in events:
        if held is not None and isinstance(event, ChatDelta) and event.index == held.index:
            held = ChatDelta(held.index, held.text + event.text, held.logprobs + event.logprobs)
            continue
        if held is not None:
            yield held
        held = event if isinstance(event, ChatDelta) else None
        if held is None:
            yield event
    if held is not None:
        yield held


def logprobs_body(entries: Sequence[TokenLogprob]) -> Logprobs | None:
    """None where there are none."""
    if not entries:
        return None
    content = [
        TokenEntry(
            token=entry.text,
            logprob=_finite(entry.logprob),
            bytes=list(entry.data),
            top_logprobs=[
                TopLogprob(token=other.text, logprob=_finite(other.logprob), bytes=list(other.data)) for other in entry.top
            ],
        )
        for entry in entries
    ]
    return Logprobs(content=content, refusal=None)


def _finite(logprob: float) -> float:
    """JSON has no infinities; OpenAI says -9999 for what is next to impossible."""
    return max(logprob, -9999.0)


def _chunk_choice(index: int, delta: Delta, *, logprobs: Logprobs | None = None) -> ChunkChoice:
    return ChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=None)


def _end_choice(end: ChatChoiceEnd) -> ChunkChoice:
    return ChunkChoice(index=end.index, delta=Delta(), logprobs=None, finish_reason=cast("Reason", end.reason))
