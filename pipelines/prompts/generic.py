"""Tools for models whose template knows none: what they may call is said in words, and calls and results become ordinary messages.

Decides those words. Knows no tokenizer and no template, but whether that one takes a system message.
"""

import json
from collections.abc import Sequence
from dataclasses import replace

from pipelines.jobs import Message, PastCall, TextPart
from pipelines.prompts.conversation import arguments_of
from pipelines.tools.asked import Tools

_WHAT = "You can call functions. Each line here describes one, with a JSON schema of its arguments:"
_HOW = (
    "A call is a JSON object with the function's name and its arguments, between tags like these; for several calls write several:\n"
    '<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call>\n'
    "What a call returned is then told between <tool_response> and </tool_response>."
)
_MUST = "Answer now with a call, and nothing else."


def in_words(messages: Sequence[Message], tools: Tools | None, *, takes_system: bool) -> tuple[Message, ...]:
    """The same conversation without calls, results and tools."""
    plain = _without_calls(messages)
    return _introduced(plain, _told(tools), takes_system=takes_system) if tools is not None else plain


def _told(tools: Tools) -> str:
    lines = [json.dumps(function.as_json()["function"], ensure_ascii=False) for function in tools.functions]
    return "\n".join([_WHAT, *lines, _HOW, *([_MUST] if tools.must_call else [])])


def _introduced(messages: tuple[Message, ...], text: str, *, takes_system: bool) -> tuple[Message, ...]:
    """With a text that stands in the system message, or before the first words of the user."""
    first = messages[0]
    if first.role == "system":
        return (replace(first, parts=(*first.parts, TextPart(text))), *messages[1:])
    if takes_system:
        return (Message("system", (TextPart(text),)), *messages)
    place = next((place for place, message in enumerate(messages) if message.role == "user"), None)
    if place is None:
        return (Message("user", (TextPart(text),)), *messages)
    told = replace(messages[place], parts=(TextPart(text), *messages[place].parts))
    return (*messages[:place], told, *messages[place + 1 :])


def _call(call: PastCall) -> str:
    written = json.dumps({"name": call.name, "arguments": arguments_of(call.arguments)}, ensure_ascii=False)
    return f"<tool_call>\n{written}\n</tool_call>"


def _result(message: Message) -> TextPart:
    said = "\n".join(part.text for part in message.parts if isinstance(part, TextPart))
    return TextPart(f"<tool_response>\n{said}\n</tool_response>")


def _without_calls(messages: Sequence[Message]) -> tuple[Message, ...]:
    plain: list[Message] = []
    for message in messages:
        if message.calls:
            message = replace(message, parts=(*message.parts, *map(TextPart, map(_call, message.calls))), calls=())
        if message.role != "tool":
            plain.append(message)
            continue
        result = _result(message)
        if plain and plain[-1].call_id is not None:  # results beside one another are one message: templates take turns
            plain[-1] = replace(plain[-1], parts=(*plain[-1].parts, result))
        else:
            plain.append(replace(message, role="user", parts=(result,), name=None))
    return tuple(replace(message, call_id=None) for message in plain)
