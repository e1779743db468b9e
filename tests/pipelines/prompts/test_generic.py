"""Tools for templates that know none: in words, with calls and results as ordinary messages."""

from pipelines.jobs import Message, PastCall, TextPart
from pipelines.prompts.generic import in_words
from pipelines.tools.asked import Function, ToolChoice, Tools

TOOLS = Tools((Function("now", "tells the time"), Function("add", parameters={"type": "object", "properties": {"a": {}}})))
ASKED = Message("user", (TextPart("What is it?"),))


def said(message: Message) -> str:
    return "\n".join(part.text for part in message.parts if isinstance(part, TextPart))


def test_functions_are_told_in_the_system_message() -> None:
    with_own = in_words([Message("system", (TextPart("Be brief."),)), ASKED], TOOLS, takes_system=False)
    assert [message.role for message in with_own] == ["system", "user"]
    assert said(with_own[0]).startswith("Be brief.\n")
    without = in_words([ASKED], TOOLS, takes_system=True)
    assert [message.role for message in without] == ["system", "user"]
    for told in (said(with_own[0]), said(without[0])):
        assert '{"name": "now", "description": "tells the time"' in told
        assert "<tool_call>" in told


def test_a_template_without_system_messages_has_them_told_by_the_user() -> None:
    (only,) = in_words([ASKED], TOOLS, takes_system=False)
    assert only.role == "user"
    assert said(only).endswith("\nWhat is it?")
    first, second = in_words([Message("assistant", (TextPart("Hi."),)), ASKED], TOOLS, takes_system=False)
    assert said(first) == "Hi."
    assert "now" in said(second)


def test_a_call_that_must_be_is_said_to_be() -> None:
    must = Tools(TOOLS.functions, ToolChoice.REQUIRED)
    assert said(in_words([ASKED], must, takes_system=True)[0]) != said(in_words([ASKED], TOOLS, takes_system=True)[0])


def test_calls_and_their_results_become_messages_that_take_turns() -> None:
    calls = (PastCall("1", "now", ""), PastCall("2", "add", '{"a":1}'))
    history = [
        ASKED,
        Message("assistant", (TextPart("I look."),), calls=calls),
        Message("tool", (TextPart("noon"),), call_id="1"),
        Message("tool", (TextPart("2"),), call_id="2", name="add"),
        Message("assistant", (TextPart("Noon."),)),
    ]
    plain = in_words(history, None, takes_system=True)
    assert [message.role for message in plain] == ["user", "assistant", "user", "assistant"]
    assert said(plain[1]) == (
        'I look.\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n'
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    )
    assert said(plain[2]) == "<tool_response>\nnoon\n</tool_response>\n<tool_response>\n2\n</tool_response>"
    assert all(message.calls == () and message.call_id is None for message in plain)


def test_a_conversation_without_calls_and_tools_stays_as_it_is() -> None:
    assert in_words([ASKED], None, takes_system=True) == (ASKED,)
