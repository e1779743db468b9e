"""Items become the chat that they mean, and a chat's fields are called as they were in the body."""

from typing import Any

import pytest

from pipelines.ingress.body.bodies import checked
from pipelines.ingress.routes.responses.conversation import PAINT, Names, as_chat
from pipelines.ingress.schemas.responses import ResponsesBody
from stages.contract.errors import InvalidRequest

JsonObject = dict[str, Any]
THOUGHT = {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
SAID = {
    "type": "message",
    "role": "assistant",
    "id": "m",
    "status": "completed",
    "content": [{"type": "output_text", "text": "ok"}],
}
CALLED = {"type": "function_call", "id": "fc", "call_id": "c1", "name": "f", "arguments": "{}", "caller": None}
ASKED = {"role": "user", "content": "a"}


def chat(input: Any, **fields: Any) -> tuple[JsonObject, Names]:
    return as_chat(checked({"model": "m", "input": input, **fields}, ResponsesBody))


def messages(*items: JsonObject, **fields: Any) -> list[JsonObject]:
    return list(chat(list(items), **fields)[0]["messages"])


def test_a_text_is_a_users_message_behind_the_instructions() -> None:
    asked, _ = chat("hi", instructions="be brief")
    assert asked["messages"] == [
        {"role": "system", "content": [{"type": "text", "text": "be brief"}]},
        {"role": "user", "content": "hi"},
    ]


def test_what_an_assistant_thought_said_and_called_in_a_row_is_one_message() -> None:
    output = {"type": "function_call_output", "call_id": "c1", "output": "5"}
    first, answer, told, again = messages(ASKED, THOUGHT, SAID, CALLED, output, SAID)
    assert first == ASKED
    assert (answer["role"], answer["content"], answer["reasoning_content"]) == ("assistant", "ok", "hm")
    assert [call["id"] for call in answer["tool_calls"]] == ["c1"]
    assert told == {"role": "tool", "tool_call_id": "c1", "content": "5"}
    assert again == {"role": "assistant", "content": "ok"}


def test_two_messages_of_an_assistant_stay_two() -> None:
    assert [message["content"] for message in messages(ASKED, SAID, SAID)[1:]] == ["ok", "ok"]


def test_a_thought_alone_is_a_message_that_said_nothing() -> None:
    _, thought, asked = messages(ASKED, THOUGHT, ASKED)
    assert (thought["content"], thought["reasoning_content"]) == ("", "hm")
    assert asked == ASKED


def test_calls_without_a_word_have_no_content() -> None:
    _, called = messages(ASKED, CALLED)
    assert called["content"] is None
    assert len(called["tool_calls"]) == 1


def test_instructions_and_the_first_system_messages_are_one() -> None:
    system = {"role": "developer", "content": "S"}
    joined, user, later = messages(system, ASKED, system, instructions="I")
    assert [part["text"] for part in joined["content"]] == ["I", "S"]
    assert (user["role"], later["role"]) == ("user", "system")
    assert messages(system, ASKED)[0] == {"role": "system", "content": "S"}


def test_images_stand_where_they_stood() -> None:
    part = {"type": "input_image", "image_url": "data:x", "detail": "low", "file_id": None}
    (message,) = messages({"role": "user", "content": [{"type": "input_text", "text": "a"}, part]})
    assert message["content"][1] == {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}}


def test_an_image_that_was_painted_is_a_call_that_was_answered() -> None:
    painted = {"type": "image_generation_call", "id": "ig", "status": "completed", "result": "x", "revised_prompt": "a cat"}
    _, call, answer = messages(ASKED, painted)
    assert call["tool_calls"][0]["function"] == {"name": PAINT, "arguments": '{"prompt": "a cat"}'}
    assert (answer["tool_call_id"], answer["content"]) == ("ig", "It was painted and shown.")
    _, _, answer = messages(ASKED, painted | {"status": "failed", "result": None})
    assert answer["content"] == "It was not painted."


def test_what_a_function_returned_may_be_several_texts() -> None:
    parts = [{"type": "input_text", "text": "5"}, {"type": "input_text", "text": "6"}]
    *_, told = messages(ASKED, CALLED, {"type": "function_call_output", "call_id": "c1", "output": parts})
    assert told["content"] == [{"type": "text", "text": "5"}, {"type": "text", "text": "6"}]


def test_tools_formats_and_the_rest_are_the_chats() -> None:
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}, {"type": "image_generation"}]
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    asked, _ = chat(
        "a",
        tools=tools,
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=False,
        text={"format": schema},
        reasoning={"effort": "low"},
        max_output_tokens=5,
        temperature=0.5,
        top_logprobs=2,
        triptych={"priority": 3},
    )
    assert asked["tools"][0] == {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object"}, "strict": True},
    }
    assert asked["tools"][1]["function"]["name"] == PAINT
    assert asked["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert asked["response_format"]["json_schema"] == {"name": "n", "schema": {"type": "object"}, "strict": True}
    assert (asked["max_completion_tokens"], asked["temperature"], asked["reasoning_effort"]) == (5, 0.5, "low")
    assert (asked["logprobs"], asked["top_logprobs"], asked["parallel_tool_calls"]) == (True, 2, False)
    assert asked["triptych"] == {"priority": 3}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("required", "required"),
        ({"type": "image_generation"}, {"type": "function", "function": {"name": PAINT}}),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
            },
        ),
    ],
)
def test_every_choice_of_tools_has_its_like(choice: object, expected: object) -> None:
    assert chat("a", tool_choice=choice)[0]["tool_choice"] == expected


def test_formats_that_are_plain_text_are_none() -> None:
    assert "response_format" not in chat("a", text={"format": {"type": "text"}})[0]
    assert chat("a", text={"format": {"type": "json_object"}})[0]["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    ("chats", "own"),
    [
        ("messages", "input"),
        ("messages[0]", "instructions"),
        ("messages[1].content[1].image_url.url", "input[0].content[1].image_url"),
        ("messages[2].tool_calls[0].function.arguments", "input[1].tool_calls[0].function.arguments"),
        ("max_tokens", "max_output_tokens"),
        ("constraint", "text.format"),
        ("response_format.json_schema.schema.properties", "text.format.schema.properties"),
        ("tools[2].function.parameters", "tools[2].parameters"),
        ("logprobs", "top_logprobs"),
    ],
)
def test_a_chats_field_is_called_as_it_was(chats: str, own: str) -> None:
    _, names = chat([ASKED, CALLED], instructions="I")
    assert names[chats] == own
    assert names.get("x-request-timeout-seconds") is None


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "not stored"),
        ({"conversation": "conv"}, "conversation", "not stored"),
        ({"background": True}, "background", "come with their request"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "'message'"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].image_url",
            "",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type", "'input_text'"),
        (
            {
                "input": [
                    {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": "x"}]}
                ]
            },
            "input[0].output[0].type",
            "'input_text'",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'function', 'image_generation'"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema", "required"),
        ({"input": []}, "input", "at least 1"),
        ({"max_output_tokens": 0}, "max_output_tokens", "1"),
        ({"typo": 1}, "typo", "not supported"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: JsonObject, param: str, told: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        checked({"model": "m", "input": "a"} | fields, ResponsesBody)
    assert error.value.param == param
    assert told in error.value.message
