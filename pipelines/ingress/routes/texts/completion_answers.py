"""What completed texts look like over HTTP: one whole body, or chunks. Counts what `usage` says. Knows no requests and no stages'
workings.
"""

import asyncio
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic_core import to_json

from pipelines.context import RequestContext, TokenUsage
from pipelines.ingress.request.receipts import ReceiptPrinter
from pipelines.ingress.request.sse import data_frame
from pipelines.ingress.request.whole_answer import listed
from pipelines.ingress.routes.texts.token_logprobs import FirstToken, Offsets, TextLogprobs
from pipelines.ingress.schemas.chats.answer import PromptTokensDetails, Usage
from pipelines.jobs import ChoiceEvents, CompletionEvent, PromptsRead, ReadText
from stages.contract.errors import StageFailed
from stages.llm.messages import GenerationEnd, PromptLogprobs, TokenDelta, TokenLogprob

MAX_TOKENS_A_CHUNK = 64


@dataclass(frozen=True, slots=True)
class CompletionHead:
    """What the whole answer and every chunk of a streamed one begin with."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    @classmethod
    def new(cls, model: str, fingerprint: str, context: RequestContext) -> "CompletionHead":
        return cls(f"cmpl-{uuid.uuid4().hex}", int(context.created), model, fingerprint)

    def to_json(self) -> bytes:
        """Open, for more members."""
        told = {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
        }
        return to_json(told)[:-1]


@dataclass(frozen=True, slots=True)
class CompletionShape:
    """What of each of `num_prompts` prompts' `n` choices is told."""

    num_prompts: int
    n: int
    echo: bool
    logprobs: bool


@dataclass(slots=True)
class _ChoiceSoFar:
    """`unsaid`: what came since it was last said. `echo`: its prompt, until that was said."""

    echo: ReadText | None = None
    unsaid: list[str] = field(default_factory=list)
    of_prompt: list[TokenLogprob] = field(default_factory=list)
    of_answer: list[TokenLogprob] = field(default_factory=list)
    end: GenerationEnd | None = None
    offsets: Offsets = field(default_factory=Offsets)

    def take(self, events: Sequence[object]) -> None:
        for event in events:
            match event:
                case PromptLogprobs(logprobs):
                    self.of_prompt += logprobs
                case TokenDelta():
                    self.unsaid.append(event.text)
                    self.of_answer += event.logprobs
                case GenerationEnd():
                    self.end = event

    def said(self, *, logprobs: bool, most: int = sys.maxsize) -> Iterator[tuple[str, TextLogprobs | None]]:
        """Text and log probabilities that came since the last time; of more than so many tokens in pieces, the first with all of the
        text."""
        echo, self.echo = self.echo, None
        text = ("" if echo is None else echo.text) + "".join(self.unsaid)
        entries = [*(self.of_prompt if echo is not None else ()), *self.of_answer] if logprobs else []
        self.unsaid, self.of_prompt, self.of_answer = [], [], []
        for at in range(0, max(1, len(entries)), most):
            told = TextLogprobs.none() if logprobs else None
            if told is not None:
                if echo is not None and not at:
                    told.add_first(FirstToken(echo.first, echo.num_marks > 0), self.offsets, text)
                told.add(entries[at : at + most], self.offsets, text)
                if at + most >= len(entries) and self.end is not None and self.end.stop_token is not None:
                    told.add_end(self.end.stop_token, self.offsets)
            yield "" if at else text, told


class Completions:
    """All choices, as their events come."""

    def __init__(self, shape: CompletionShape) -> None:
        self.shape = shape
        self.choices = [_ChoiceSoFar() for _ in range(shape.num_prompts * shape.n)]
        self._prompt_tokens = 0

    def take(self, event: CompletionEvent) -> None:
        match event:
            case PromptsRead(prompts):
                self._prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
                for index, choice in enumerate(self.choices):
                    choice.echo = prompts[index // self.shape.n] if self.shape.echo else None
            case ChoiceEvents(index, events):
                self.choices[index].take(events)

    def ends(self) -> Sequence[GenerationEnd]:
        """Every choice's. Raises `StageFailed` where one never ended."""
        ends = [choice.end for choice in self.choices if choice.end is not None]
        if len(ends) < len(self.choices):
            raise StageFailed("the answer ended before all of its choices did")
        return ends

    def usage_of(self, context: RequestContext) -> Usage:
        """Of a request that is through, which is to know it, too."""
        usage = self.usage()
        context.usage = TokenUsage(usage.prompt_tokens, usage.completion_tokens)
        return usage

    def usage(self) -> Usage:
        """Exact. A prompt counts once however many choices it has; cached is what none of them had to compute."""
        ends, n = self.ends(), self.shape.n
        cached = sum(min(end.cached_tokens for end in ends[first : first + n]) for first in range(0, len(ends), n))
        completion_tokens = sum(end.completion_tokens for end in ends)
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=self._prompt_tokens + completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
        )


class WholeCompletion:
    """Takes events as they come; the answer is one body at the end."""

    def __init__(
        self, head: CompletionHead, context: RequestContext, receipts: ReceiptPrinter, shape: CompletionShape
    ) -> None:
        self._head, self._context, self._receipts = head, context, receipts
        self._completions = Completions(shape)

    def take(self, event: CompletionEvent) -> None:
        self._completions.take(event)

    def body(self) -> Sequence[bytes]:
        """As JSON, in pieces. Raises `StageFailed` where a choice never ended."""
        usage, ends = self._completions.usage_of(self._context), self._completions.ends()
        choices = [
            _choice(index, *next(choice.said(logprobs=self._completions.shape.logprobs)), end.reason)
            for index, (choice, end) in enumerate(zip(self._completions.choices, ends, strict=True))
        ]
        after = b'],"usage":' + usage.to_json() + b',"triptych":' + self._receipts.receipt(self._context).to_json() + b"}"
        return [self._head.to_json() + b',"choices":[', *listed(choices), after]


class CompletionStreamWriter:
    """Events into chunks. The last choice's end waits for the end of the stream, because the last chunk carries the receipt. A prompt that
    is echoed is said with the first of its answer, when all is known of it."""

    def __init__(
        self,
        head: CompletionHead,
        context: RequestContext,
        receipts: ReceiptPrinter,
        shape: CompletionShape,
        *,
        include_usage: bool,
    ) -> None:
        self._context, self._receipts, self._include_usage = context, receipts, include_usage
        self._completions = Completions(shape)
        self._before = head.to_json() + b',"choices":['
        self._after = b'],"usage":null' if include_usage else b"]"
        self._held: bytes | None = None

    async def frame(self, event: CompletionEvent) -> bytes:
        self._completions.take(event)
        if isinstance(event, PromptsRead):
            return b""
        choice = self._completions.choices[event.index]
        if choice.end is None and not any(isinstance(one, TokenDelta) for one in event.events):
            return b""  # of the prompt only, and there is more to come of it
        chunks: list[bytes] = []
        for text, logprobs in choice.said(logprobs=self._completions.shape.logprobs, most=MAX_TOKENS_A_CHUNK):
            if chunks:
                await asyncio.sleep(0)  # others get their turn, where much has come together
            if text or (logprobs is not None and logprobs.tokens):
                chunks.append(b"".join(_choice(event.index, text, logprobs, None)))
        if choice.end is not None:
            earlier, self._held = self._held, b"".join(_choice(event.index, "", None, choice.end.reason))
            chunks += [earlier] if earlier is not None else []
        return b"".join(map(self._chunk, chunks))

    async def end(self) -> bytes:
        usage = self._completions.usage_of(self._context)
        receipt = b',"triptych":' + self._receipts.receipt(self._context).to_json()
        held = self._held or b""
        if not self._include_usage:
            return self._chunk(held, receipt)
        return self._chunk(held) + data_frame(self._before + b'],"usage":' + usage.to_json() + receipt + b"}")

    def _chunk(self, choice: bytes, extra: bytes = b"") -> bytes:
        return data_frame(self._before + choice + self._after + extra + b"}")


def _choice(index: int, text: str, logprobs: TextLogprobs | None, reason: str | None) -> Sequence[bytes]:
    """Its JSON, in pieces."""
    told: Mapping[str, object] = {"index": index, "text": text, "finish_reason": reason}
    before = to_json(told)[:-1] + b',"logprobs":'
    return [before, *(logprobs.to_json() if logprobs is not None else (b"null",)), b"}"]
