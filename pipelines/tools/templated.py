"""Answers of models whose tokenizer says itself how they are read (`response_template`), by transformers' own parser.

Decides which of its fields are thoughts, calls and text. What it can't read is told as text. Imports transformers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipelines.tools.answer import said
from pipelines.tools.calls import Calls
from pipelines.tools.events import AnswerEvent, ReasoningDelta
from pipelines.tools.json_reading import json_text

THOUGHTS, CALLS = ("reasoning_content", "thinking", "reasoning"), "tool_calls"


class TemplatedParser:
    """Of one answer. `prompt`: what the model was asked, since templates begin the answer themselves. `calls` None: none are wanted, and
    what reads like one is text."""

    def __init__(
        self, template: Mapping[str, Any], prompt: str, tools: Sequence[Mapping[str, Any]], calls: Calls | None
    ) -> None:
        from transformers.utils.chat_parsing import ResponseParser

        self._parser: Any = ResponseParser(dict(template), prefix=prompt, tools=[dict(tool) for tool in tools])
        self._calls = calls
        self._untold = ""  # of the calls that are being read: they are told when they are whole
        self._space = ""  # white space that is told once something follows it
        self._is_broken = self._has_begun = False

    @property
    def has_called(self) -> bool:
        return self._calls is not None and self._calls.num > 0

    def feed(self, text: str) -> Sequence[AnswerEvent]:
        if self._is_broken:
            return [said(text)] if text else []
        return self._told(text, lambda: self._parser.feed(text))

    def end(self) -> Sequence[AnswerEvent]:
        return [] if self._is_broken else self._told("", lambda: self._parser.finalize()[1])

    def _told(self, text: str, read: Callable[[], Sequence[Mapping[str, Any]]]) -> list[AnswerEvent]:
        try:
            return [event for one in read() for event in self._event(one)]
        except Exception:  # a checkpoint's own patterns over what a model made up: it fails in many ways
            self._is_broken = True
            untold = self._untold + text
            return [said(untold)] if untold else []

    def _event(self, event: Mapping[str, Any]) -> Sequence[AnswerEvent]:
        kind, field = event["type"], event["field"]
        if kind == "region_open":
            self._space, self._has_begun, self._untold = "", False, ""
        if field != CALLS:
            return self._trimmed(field, event["text"]) if kind == "region_chunk" else ()
        if kind == "region_chunk":
            self._untold += event["text"]
        return self._called(event["value"]) if kind == "region_close" else ()

    def _trimmed(self, field: str, text: str) -> Sequence[AnswerEvent]:
        """As the parser trims a region when it is whole."""
        text = self._space + text if self._has_begun else text.lstrip()
        told = text.rstrip()
        self._space = text[len(told) :]
        if not told:
            return ()
        self._has_begun = True
        return (ReasoningDelta(told) if field in THOUGHTS else said(told),)

    def _called(self, value: Any) -> Sequence[AnswerEvent]:
        if self._calls is None:
            return (said(self._untold),)
        events: list[AnswerEvent] = []
        for one in value if isinstance(value, list) else [value]:
            function = one["function"]
            name, arguments = str(function["name"]), function.get("arguments")
            text = arguments if isinstance(arguments, str) else json_text(arguments or {})
            if self._calls.is_one(name):
                events += [event for event in self._calls.whole(name, text) if event is not None]
        self._untold = ""
        return events
