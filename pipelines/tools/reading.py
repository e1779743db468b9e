"""An answer's events, from those of the LLM: its text is read for thoughts and calls, and all else is handed on.

Decides what an answer that called ends with, and how a call is identified. Knows no stage.
"""

import secrets
import string
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from pipelines.tools.events import AnswerEvent, ReasoningDelta
from stages.llm.messages import GenerationEnd, TokenDelta

CALLED = "tool_calls"
_LETTERS = string.ascii_letters + string.digits


class Parser(Protocol):
    """Of one answer's text."""

    @property
    def has_called(self) -> bool: ...

    def feed(self, text: str) -> Sequence[AnswerEvent]: ...

    def end(self) -> Sequence[AnswerEvent]:
        """What was held back, when no more text comes."""
        ...


class AnswerReader:
    """Of one choice."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser

    def read(self, events: Sequence[AnswerEvent]) -> list[AnswerEvent]:
        read: list[AnswerEvent] = []
        for event in events:
            match event:
                case TokenDelta():
                    read += _counted(self._parser.feed(event.text), event)
                case GenerationEnd():
                    read += self._parser.end()
                    called = event.reason == "stop" and self._parser.has_called
                    read.append(replace(event, reason=CALLED) if called else event)
                case _:
                    read.append(event)
        return read


def _counted(told: Sequence[AnswerEvent], of: TokenDelta) -> list[AnswerEvent]:
    """With the tokens that they were told of: a thought's count for it, all others for the text."""
    counted, left = list(told), of
    for place, event in enumerate(counted):
        if isinstance(event, TokenDelta):
            counted[place] = replace(left, text=event.text)
            return counted
        if isinstance(event, ReasoningDelta):
            counted[place], left = replace(event, num_tokens=left.num_tokens), replace(left, num_tokens=0)
    return [*counted, replace(left, text="")] if left.num_tokens or left.logprobs else counted


def new_call_id(num_chars: int | None = None) -> str:
    """`num_chars`: for models whose templates insist on a length; None: as OpenAI's look."""
    if num_chars is None:
        return f"call_{secrets.token_hex(12)}"
    return "".join(secrets.choice(_LETTERS) for _ in range(num_chars))
