"""A conversation as templates take it: messages and calls as JSON values, in which no text can be read as a control token.

Decides what becomes of what models leave to their clients: arguments are JSON values where they are JSON, a thought that comes back within
an answer's text is a thought again, and ids have the length that a template insists on. Knows no tokenizer and no template.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipelines.jobs import ImagePart, Message, PastCall, TextPart
from pipelines.prompts.control_tokens import ControlTokens
from pipelines.tools.formats import ThoughtMarks


def texts_of(value: object) -> Iterator[str]:
    """Every text in a JSON value, names of members too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, member in value.items():
            yield str(key)
            yield from texts_of(member)
    elif isinstance(value, Sequence):
        for member in value:
            yield from texts_of(member)


def changed(value: Any, change: Callable[[str], str]) -> Any:
    """The same JSON value with every text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(str(key)): changed(member, change) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [changed(member, change) for member in value]
    return value


def texts_of_message(message: Message) -> Iterator[str]:
    yield from (part.text for part in message.parts if isinstance(part, TextPart))
    yield from (text for text in (message.name, message.reasoning, message.call_id) if text is not None)
    for call in message.calls:
        yield from (call.id, call.name, call.arguments)


def entry_of(message: Message, functions: Mapping[str, str], call_id: Callable[[str], str]) -> dict[str, Any]:
    """A message as a template takes it, but for role and content. `functions`: by call, what was called; `call_id`: an id as the template
    takes it."""
    entry: dict[str, Any] = {}
    name = message.name or (functions.get(message.call_id or "") if message.role == "tool" else None)
    if name is not None:
        entry["name"] = name
    if message.reasoning is not None:
        entry["reasoning_content"] = message.reasoning
    if message.calls:
        entry["tool_calls"] = [_call(call, call_id) for call in message.calls]
    if message.call_id is not None:
        entry["tool_call_id"] = call_id(message.call_id)
    return entry


def _call(call: PastCall, call_id: Callable[[str], str]) -> dict[str, Any]:
    return {
        "id": call_id(call.id),
        "type": "function",
        "function": {"name": call.name, "arguments": arguments_of(call.arguments)},
    }


def arguments_of(text: str) -> Any:
    """As a value, which templates write as their models do; text that is no JSON object stays text."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def called_functions(messages: Sequence[Message]) -> Mapping[str, str]:
    """By a call's id, the function's name."""
    return {call.id: call.name for message in messages for call in message.calls}


def short_id(num_chars: int) -> Callable[[str], str]:
    """Ids of that many letters and digits: those that have it stay, the others are told apart by a digest."""

    def made(text: str) -> str:
        if len(text) == num_chars and text.isalnum() and text.isascii():
            return text
        return hashlib.sha256(text.encode()).hexdigest()[:num_chars]

    return made


def with_own_thoughts(message: Message, marks: ThoughtMarks | None) -> Message:
    """An answer whose text begins with its thought, as servers give it that tell thoughts and answers not apart."""
    first = message.parts[0] if message.parts else None
    if marks is None or message.role != "assistant" or message.reasoning is not None or not isinstance(first, TextPart):
        return message
    thought, end, said = first.text.partition(marks.closing)
    if not end or not thought.lstrip().startswith(marks.opening):
        return message
    rest = replace(first, text=said.lstrip("\n"))
    return replace(message, parts=(rest, *message.parts[1:]), reasoning=thought.partition(marks.opening)[2].strip())


def harmless_parts(
    parts: Sequence[TextPart | ImagePart], control: ControlTokens, mark: str
) -> tuple[TextPart | ImagePart, ...]:
    """The parts with broken control tokens. Only an image's placeholders keep two texts apart."""
    found: list[TextPart | ImagePart] = []
    run: list[str] = []
    for part in parts:
        if isinstance(part, TextPart):
            run.append(part.text)
            continue
        found += [*map(TextPart, control.broken_apart(run, mark)), part]
        run = []
    return (*found, *map(TextPart, control.broken_apart(run, mark)))
