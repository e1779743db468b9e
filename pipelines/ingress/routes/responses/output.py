"""From what is said of an answer to OpenAI's output items, and to the events that tell of them as they grow. Knows no requests.

Decides where one item ends and the next begins: a thought, a message, a call, each is done before another begins; and whose a token's log
probabilities are. What a model wants
painted is noted, and told of once it is painted (`painting.py`).
"""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipelines.ingress.routes.responses.conversation import PAINT
from pipelines.tools.events import AnswerEvent, ReasoningDelta, ToolArgumentsDelta, ToolCallBegun
from stages.llm.messages import GenerationEnd, TokenDelta, TokenLogprob

JsonObject = dict[str, Any]
LEAST = -9999.0  # JSON has no infinities


@dataclass(frozen=True, slots=True)
class Event:
    """`type`: without "response." before it."""

    type: str
    fields: JsonObject


@dataclass(slots=True)
class OutputItem:
    """`told`: the item as it is told, complete once it is done."""

    index: int
    told: JsonObject
    text: list[str] = field(default_factory=list)
    logprobs: list[JsonObject] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return str(self.told["type"])

    @property
    def id(self) -> str:
        return str(self.told["id"])

    def place(self) -> JsonObject:
        return {"item_id": self.id, "output_index": self.index}

    def part(self) -> JsonObject:
        """Its place, with that of its only content."""
        return {**self.place(), "content_index": 0}

    def event(self, type: str) -> Event:
        return Event(type, {"output_index": self.index, "item": dict(self.told)})


class Output:
    """Of one answer. `paints`: whether a call of `PAINT` is a painting, not the client's function."""

    def __init__(self, *, paints: bool) -> None:
        self.items: list[OutputItem] = []
        self.paintings: list[OutputItem] = []
        """Begun, and to be painted: their prompts are in `prompt_of`."""
        self.end: GenerationEnd | None = None
        self.reasoning_tokens = 0
        self._paints = paints
        self._open: OutputItem | None = None
        self._unsaid: list[JsonObject] = []
        """Log probabilities of tokens that show nothing yet: the message's that comes, or those of a mark before a thought or a call."""

    def take(self, event: AnswerEvent) -> Iterator[Event]:
        match event:
            case ReasoningDelta():
                self.reasoning_tokens += event.num_tokens
                self._unsaid.clear()
                yield from self._thought(event.text)
            case TokenDelta(text, _, logprobs):
                if text or self._may_say_more:
                    self._unsaid += map(_logprob, logprobs)
                if text:
                    yield from self._said(text)
            case ToolCallBegun():
                self._unsaid.clear()
                yield from self._called(event)
            case ToolArgumentsDelta():
                yield from self._argued(event.text)
            case GenerationEnd():
                yield from self._ended(event)

    @property
    def is_cut(self) -> bool:
        return self.end is not None and self.end.reason == "length"

    def told(self) -> list[JsonObject]:
        return [item.told for item in self.items]

    @property
    def _may_say_more(self) -> bool:
        """Whether a token that shows nothing yet may be a message's. Those within a thought or a call are nobody's: of all items only
        messages have log probabilities."""
        return self._open is None or self._open.kind == "message"

    def _thought(self, text: str) -> Iterator[Event]:
        if text:
            yield from self._opened("reasoning", "rs_", summary=[], content=[])
            item = self._now()
            item.text.append(text)
            yield Event("reasoning_text.delta", {**item.part(), "delta": text})

    def _said(self, text: str) -> Iterator[Event]:
        logprobs, self._unsaid = self._unsaid, []
        yield from self._opened("message", "msg_", role="assistant", content=[])
        item = self._now()
        item.text.append(text)
        item.logprobs += logprobs
        yield Event("output_text.delta", {**item.part(), "delta": text, "logprobs": logprobs})

    def _called(self, call: ToolCallBegun) -> Iterator[Event]:
        yield from self._closed()
        if self._paints and call.name == PAINT:
            yield from self._opened("image_generation_call", "ig_", result=None)
            yield Event("image_generation_call.in_progress", self._now().place())
        else:
            yield from self._opened("function_call", "fc_", call_id=call.id, name=call.name, arguments="")

    def _argued(self, text: str) -> Iterator[Event]:
        item = self._now()
        item.text.append(text)
        if item.kind == "function_call":
            yield Event("function_call_arguments.delta", {**item.place(), "delta": text})

    def _ended(self, end: GenerationEnd) -> Iterator[Event]:
        self.end = end
        if self._unsaid and self._may_say_more:
            yield from self._said("")
        if not self.items:  # an answer has at least a message, which may be empty
            yield from self._opened("message", "msg_", role="assistant", content=[])
        yield from self._closed("incomplete" if self.is_cut else "completed")

    def _now(self) -> OutputItem:
        if self._open is None:
            raise RuntimeError("arguments of no call")
        return self._open

    def _opened(self, kind: str, prefix: str, **fields: object) -> Iterator[Event]:
        """Goes on with an item of the kind, or begins one. Of calls each is begun by itself."""
        if self._open is not None and self._open.kind == kind:
            return
        yield from self._closed()
        told = {"type": kind, "id": f"{prefix}{uuid.uuid4().hex}", "status": "in_progress", **fields}
        item = self._open = OutputItem(len(self.items), told)
        self.items.append(item)
        yield item.event("output_item.added")
        if kind in _PARTS:
            yield Event("content_part.added", {**item.part(), "part": _part(item, whole=False)})

    def _closed(self, status: str = "completed") -> Iterator[Event]:
        item, self._open = self._open, None
        if item is None:
            return
        if item.kind == "image_generation_call":
            self.paintings.append(item)
            return
        text = "".join(item.text)
        if item.kind == "function_call":
            item.told = {**item.told, "arguments": text, "status": status}
            yield Event("function_call_arguments.done", {**item.place(), "name": item.told["name"], "arguments": text})
        else:
            part = _part(item, whole=True)
            item.told = {**item.told, "content": [part], "status": status}
            logprobs = {"logprobs": item.logprobs} if item.kind == "message" else {}
            yield Event(f"{_PARTS[item.kind]}.done", {**item.part(), "text": text, **logprobs})
            yield Event("content_part.done", {**item.part(), "part": part})
        yield item.event("output_item.done")


_PARTS = {"message": "output_text", "reasoning": "reasoning_text"}


def _part(item: OutputItem, *, whole: bool) -> JsonObject:
    part: JsonObject = {"type": _PARTS[item.kind], "text": "".join(item.text) if whole else ""}
    if item.kind == "message":
        part |= {"annotations": [], "logprobs": item.logprobs if whole else []}
    return part


def prompt_of(item: OutputItem) -> str | None:
    """What is to be painted; None: the model has not said it."""
    try:
        arguments = json.loads("".join(item.text))
    except ValueError:
        return None
    prompt = arguments.get("prompt") if isinstance(arguments, dict) else None
    return prompt if isinstance(prompt, str) and prompt.strip() else None


def _logprob(entry: TokenLogprob) -> JsonObject:
    return {**_one(entry), "top_logprobs": [_one(other) for other in entry.top]}


def _one(entry: TokenLogprob) -> JsonObject:
    return {"token": entry.text, "bytes": list(entry.data), "logprob": max(entry.logprob, LEAST)}
