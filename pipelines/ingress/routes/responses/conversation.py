"""What /v1/responses is asked, as the chat that it comes to: items into messages, tools and formats into a chat's.

Decides which items are one message (what an assistant thought, said and called in a row), and what a field of the chat is called in the
body that it came from, for whoever is told of it. Pure; what is allowed in detail is the chat's own body's to check.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.ingress.schemas.responses import (
    AllowedTools,
    FunctionCallItem,
    FunctionChoice,
    FunctionOutputItem,
    FunctionTool,
    InputImage,
    InputItem,
    MessageItem,
    PaintedItem,
    PaintingChoice,
    PaintingTool,
    ReasoningItem,
    Refusal,
    ResponsesBody,
    SchemaFormat,
)

JsonObject = dict[str, Any]

PAINT = "image_generation"
"""The function that a model calls to have something painted."""
PAINT_FUNCTION: JsonObject = {
    "type": "function",
    "function": {
        "name": PAINT,
        "description": "Paints an image and shows it to the user.",
        "parameters": {
            "type": "object",
            "properties": {"prompt": {"type": "string", "description": "what is to be seen in the image, in one sentence"}},
            "required": ["prompt"],
            "additionalProperties": False,
        },
    },
}
_PLACE = re.compile(r"messages\[(\d+)\](.*)", re.DOTALL)
_FIELDS = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "logprobs": "top_logprobs",
    "token_ids": "input",
    "images": "input",
    "response_format": "text.format",
    "constraint": "text.format",
    "reasoning_effort": "reasoning.effort",
}


@dataclass(slots=True)
class _Messages:
    """As a chat has them, and where each came from."""

    messages: list[JsonObject] = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    def add(self, message: JsonObject, place: str) -> None:
        self.messages.append(message)
        self.places.append(place)

    def last_of(self, role: str, place: str) -> JsonObject:
        """The last message, where it is that role's; else a new one."""
        if not self.messages or self.messages[-1]["role"] != role:
            self.add({"role": role}, place)
        return self.messages[-1]


class Names(Mapping[str, str]):
    """What a chat's field is called in the body of /v1/responses. `places`: of each message."""

    def __init__(self, places: Sequence[str]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> str:
        if (found := _PLACE.fullmatch(name)) is not None and int(found[1]) < len(self._places):
            return self._places[int(found[1])] + _within(found[2])
        for chats, own in _FIELDS.items():
            if name == chats or name.startswith((f"{chats}.", f"{chats}[")):
                return own + _within(name[len(chats) :])
        if name.startswith("tools["):
            return name.replace("].function", "]", 1)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_FIELDS)

    def __len__(self) -> int:
        return len(_FIELDS)


def _within(path: str) -> str:
    return path.replace(".image_url.url", ".image_url").replace(".json_schema", "")


def as_chat(body: ResponsesBody) -> tuple[JsonObject, Names]:
    """A chat's body, and the names of its fields."""
    asked = _messages(body)
    chat: JsonObject = {"model": body.model, "messages": asked.messages}
    for own, chats in _SAME.items():
        if (value := getattr(body, own)) is not None:
            chat[chats] = value
    if body.triptych is not None:
        chat["triptych"] = body.triptych.model_dump()
    if wants_logprobs(body):
        chat |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    if body.reasoning is not None and body.reasoning.effort is not None:
        chat["reasoning_effort"] = body.reasoning.effort
    return chat | _tools(body) | _format(body), Names(asked.places)


_SAME = {"max_output_tokens": "max_completion_tokens", "temperature": "temperature", "top_p": "top_p"}


def wants_logprobs(body: ResponsesBody) -> bool:
    return body.top_logprobs is not None or "message.output_text.logprobs" in (body.include or ())


def painting_tool(body: ResponsesBody) -> tuple[int, PaintingTool] | None:
    """The first there is, and its place."""
    return next(((place, tool) for place, tool in enumerate(body.tools or ()) if isinstance(tool, PaintingTool)), None)


def _messages(body: ResponsesBody) -> _Messages:
    asked = _Messages()
    if body.instructions is not None:
        asked.add({"role": "system", "content": [{"type": "text", "text": body.instructions}]}, "instructions")
    if isinstance(body.input, str):
        asked.add({"role": "user", "content": body.input}, "input")
        return asked
    for index, item in enumerate(body.input):
        _add(asked, item, f"input[{index}]")
    for message in asked.messages:
        if message["role"] == "assistant":
            message.setdefault("content", None if message.get("tool_calls") else "")  # a thought may be all that was said
    return asked


def _add(asked: _Messages, item: InputItem, place: str) -> None:
    match item:
        case MessageItem(role="assistant"):
            _add_said(asked, item, place)
        case MessageItem():
            _add_message(asked, item, place)
        case ReasoningItem():
            thought = "".join(part.text for part in item.content or item.summary)
            message = _unsaid(asked, place)
            message["reasoning_content"] = message.get("reasoning_content", "") + thought
        case FunctionCallItem():
            _add_call(asked, item.call_id, item.name, item.arguments, place)
        case PaintedItem():
            _add_call(asked, item.id, PAINT, json.dumps({"prompt": item.revised_prompt or ""}), place)
            painted = "It was not painted." if item.status == "failed" else "It was painted and shown."
            asked.add({"role": "tool", "tool_call_id": item.id, "content": painted}, place)
        case FunctionOutputItem():
            content = item.output if isinstance(item.output, str) else [_part(part) for part in item.output]
            asked.add({"role": "tool", "tool_call_id": item.call_id, "content": content}, place)


def _add_message(asked: _Messages, item: MessageItem, place: str) -> None:
    role = "user" if item.role == "user" else "system"
    parts = item.content if isinstance(item.content, str) else [_part(part) for part in item.content]
    if (
        role == "system"
        and len(asked.messages) == 1
        and asked.messages[0]["role"] == "system"
        and asked.places[0] == "instructions"
    ):
        # Templates know one of them, at the beginning.
        asked.messages[0]["content"] += [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        return
    asked.add({"role": role, "content": parts}, place)


def _add_said(asked: _Messages, item: MessageItem, place: str) -> None:
    message = _unsaid(asked, place)
    message["content"] = item.content if isinstance(item.content, str) else "".join(map(_said, item.content))


def _said(part: Any) -> str:
    return str(part.refusal) if isinstance(part, Refusal) else str(getattr(part, "text", ""))


def _unsaid(asked: _Messages, place: str) -> JsonObject:
    """An assistant's message that has said and called nothing yet."""
    last = asked.messages[-1] if asked.messages else None
    if last is None or last["role"] != "assistant" or "content" in last or "tool_calls" in last:
        asked.add({"role": "assistant"}, place)
    return asked.messages[-1]


def _add_call(asked: _Messages, id: str, name: str, arguments: str, place: str) -> None:
    calls = asked.last_of("assistant", place).setdefault("tool_calls", [])
    calls.append({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})


def _part(part: Any) -> JsonObject:
    if isinstance(part, InputImage):
        detail = {} if part.detail is None else {"detail": part.detail}
        return {"type": "image_url", "image_url": {"url": part.image_url, **detail}}
    return {"type": "text", "text": _said(part)}


def _tools(body: ResponsesBody) -> JsonObject:
    told: JsonObject = {}
    if body.tools:
        told["tools"] = [PAINT_FUNCTION if isinstance(tool, PaintingTool) else _function(tool) for tool in body.tools]
    if body.tool_choice is not None:
        told["tool_choice"] = _choice(body.tool_choice)
    if body.parallel_tool_calls is not None:
        told["parallel_tool_calls"] = body.parallel_tool_calls
    return told


def _function(tool: FunctionTool) -> JsonObject:
    given = {name: value for name in ("description", "parameters", "strict") if (value := getattr(tool, name)) is not None}
    return {"type": "function", "function": {"name": tool.name, **given}}


def _choice(choice: str | FunctionChoice | PaintingChoice | AllowedTools) -> object:
    match choice:
        case AllowedTools():
            return {
                "type": "allowed_tools",
                "allowed_tools": {"mode": choice.mode, "tools": [_choice(tool) for tool in choice.tools]},
            }
        case FunctionChoice():
            return {"type": "function", "function": {"name": choice.name}}
        case PaintingChoice():
            return {"type": "function", "function": {"name": PAINT}}
        case _:
            return choice


def _format(body: ResponsesBody) -> JsonObject:
    asked = body.text.format if body.text is not None else None
    if asked is None or asked.type == "text":
        return {}
    if not isinstance(asked, SchemaFormat):
        return {"response_format": {"type": "json_object"}}
    given = {name: value for name in ("description", "strict") if (value := getattr(asked, name)) is not None}
    return {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": asked.name, "schema": asked.schema_, **given},
        }
    }
