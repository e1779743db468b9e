"""Which items an answer's events become, and which message a token's log probabilities are of."""

from typing import Any

import pytest

from pipelines.ingress.routes.responses.output import Event, Output
from pipelines.tools.events import AnswerEvent, ReasoningDelta, ToolArgumentsDelta, ToolCallBegun
from stages.llm.messages import GenerationEnd, TokenDelta, TokenLogprob

JsonObject = dict[str, Any]
CALL = ToolCallBegun(0, "call_1", "f")
END = GenerationEnd("stop", 9)


def shown(text: str, token: str = "") -> TokenDelta:
    return TokenDelta(text, 1, (TokenLogprob(1, token or text, (token or text).encode(), -0.5),))


def mark(token: str) -> TokenDelta:
    """A token that shows nothing."""
    return shown("", token)


def told(*events: AnswerEvent) -> tuple[list[JsonObject], list[Event]]:
    output = Output(paints=False)
    said = [event for one in events for event in output.take(one)]
    return output.told(), said


def tokens(part: JsonObject) -> list[str]:
    return [entry["token"] for entry in part["logprobs"]]


def test_a_call_stays_one_item_however_its_tokens_come() -> None:
    arguments = (mark('{"a":'), ToolArgumentsDelta(0, '{"a":'), mark("1}"), ToolArgumentsDelta(0, "1}"), mark("</call>"))
    (call,), _ = told(CALL, *arguments, END)
    assert (call["type"], call["arguments"], call["status"]) == ("function_call", '{"a":1}', "completed")


def test_a_call_behind_its_mark_is_the_only_item() -> None:
    items, _ = told(mark("<call>"), mark("f"), CALL, ToolArgumentsDelta(0, "{}"), END)
    assert [item["type"] for item in items] == ["function_call"]


def test_two_calls_stay_two() -> None:
    items, _ = told(
        CALL, ToolArgumentsDelta(0, "{}"), mark("<call>"), ToolCallBegun(1, "c2", "g"), ToolArgumentsDelta(1, "[]"), END
    )
    assert [item["arguments"] for item in items] == ["{}", "[]"]


@pytest.mark.parametrize("begin", [(), (mark("<think>"),)], ids=["in the prompt", "in the answer"])
def test_a_thought_stays_one_item_however_its_tokens_come(begin: tuple[TokenDelta, ...]) -> None:
    thought = (ReasoningDelta("Let", 1), TokenDelta("", 0, mark("Let").logprobs), ReasoningDelta(" me", 1), mark("</think>"))
    (first, message), _ = told(*begin, *thought, shown("Hi"), shown("!"), END)
    assert (first["type"], first["content"][0]["text"]) == ("reasoning", "Let me")
    (part,) = message["content"]
    assert (part["text"], tokens(part)) == ("Hi!", ["Hi", "!"])


def test_tokens_that_show_nothing_yet_are_told_with_the_text_that_they_become() -> None:
    (message,), said = told(mark("h"), shown("half"), mark("o"), shown("of", "f"), END)
    assert tokens(message["content"][0]) == ["h", "half", "o", "f"]
    deltas = [event.fields for event in said if event.type == "output_text.delta"]
    assert [(delta["delta"], tokens(delta)) for delta in deltas] == [("half", ["h", "half"]), ("of", ["o", "f"])]


def test_a_mark_behind_a_message_is_not_the_messages() -> None:
    (message, call), _ = told(shown("Hi"), mark("<call>"), CALL, ToolArgumentsDelta(0, "{}"), END)
    assert tokens(message["content"][0]) == ["Hi"]
    assert call["arguments"] == "{}"


def test_tokens_that_never_show_anything_are_the_messages_that_ends() -> None:
    (message,), _ = told(shown("Hi"), mark("half of a character"), END)
    assert tokens(message["content"][0]) == ["Hi", "half of a character"]
    (empty,), _ = told(mark("half of a character"), END)
    assert tokens(empty["content"][0]) == ["half of a character"]
    thoughts, _ = told(ReasoningDelta("Hm", 1), mark("half of a character"), END)
    assert [item["type"] for item in thoughts] == ["reasoning"]
