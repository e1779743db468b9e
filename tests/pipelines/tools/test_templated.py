"""Answers of models whose tokenizer says how they are read, by transformers' own parser."""

import json
from itertools import count
from typing import Any

import pytest

from pipelines.tools.calls import Calls
from pipelines.tools.templated import TemplatedParser
from tests.pipelines.tools.answers import Understood, understood

pytestmark = pytest.mark.models

TEMPLATE: dict[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "thinking": {"open": "<think>", "close": "</think>", "content": "text"},
        "tool_calls": {
            "open": "<call>",
            "close": "</call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"content": "text"},
    },
}
TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}
]
PROMPT = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def read(text: str, pieces: int = 1, *, prompt: str = PROMPT, calls: bool = True) -> Understood:
    ids = map(str, count())
    parser = TemplatedParser(TEMPLATE, prompt, TOOLS, Calls(lambda: next(ids)) if calls else None)
    events = [event for at in range(0, len(text), pieces) for event in parser.feed(text[at : at + pieces])]
    found = understood([*events, *parser.end()])
    assert parser.has_called == bool(found.calls)
    return found


@pytest.mark.parametrize("pieces", [1, 4, 1000])
def test_a_thought_a_text_and_calls_are_told_apart(pieces: int) -> None:
    call = '<call>{"name": "f", "arguments": {"a": 1}}</call>'
    found = read(f"<think>\nhm\n</think>\nLet me see. {call}{call}", pieces)
    assert (found.thought, found.text) == ("hm", "Let me see.")
    assert [(name, json.loads(arguments)) for name, arguments in found.calls] == [("f", {"a": 1})] * 2


def test_a_thought_that_the_prompt_began_goes_on() -> None:
    assert read("hm</think>yes", prompt=f"{PROMPT}<think>\n") == Understood("yes", "hm")


@pytest.mark.parametrize("text", ["<call>no json</call> and more", '<call>["f"]</call>'])
@pytest.mark.parametrize("pieces", [1, 1000])
def test_what_is_no_call_is_told_as_text(text: str, pieces: int) -> None:
    found = read(text, pieces)
    assert found.calls == []
    assert text.partition("<call>")[2].partition("</call>")[0] in found.text


def test_without_tools_what_reads_like_a_call_is_text() -> None:
    found = read('<call>{"name": "f", "arguments": {}}</call>', calls=False)
    assert found.calls == []
    assert '{"name": "f"' in found.text
