"""Chats that call functions and think: what reaches the model, and what OpenAI's own client makes of the answers."""

import json
from dataclasses import replace
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from pipelines.jobs import Message, PastCall, TextPart
from pipelines.tools.dialect import Dialect
from pipelines.tools.formats import BY_NAME, THOUGHT_MARKS
from stages.llm.messages import Constraint, ConstraintKind
from tests.pipelines.checked_on import CheckedOn
from tests.pipelines.ingress.fakes import CHAT
from tests.pipelines.ingress.routes.test_chat import asked, refused
from tests.pipelines.ingress.speaking import Speaking, posted, spoken_to
from tests.pipelines.ingress.surface import JsonObject, chat_body

HERMES = Dialect(BY_NAME["hermes"], knows_tools=True)
THINKING = Dialect(BY_NAME["hermes"], knows_tools=True, thoughts=THOUGHT_MARKS[0], tokens={"<think>": 6, "</think>": 7})
CALLS = (
    'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich 🙂"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
)
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "tells the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
NOW: Any = {"type": "function", "function": {"name": "now"}}
TOOLS = [WEATHER, NOW]
HISTORY: Any = [
    {"role": "user", "content": "What is the weather?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "a1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}],
    },
    {"role": "tool", "tool_call_id": "a1", "content": "rain"},
]


async def test_an_answer_that_calls_has_openais_shape() -> None:
    service = Speaking(CALLS, HERMES)
    async with spoken_to(service) as client:
        answer = await client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "?"}], tools=TOOLS)
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")
    assert choice.message.tool_calls is not None
    called = [
        (call.function.name, json.loads(call.function.arguments))
        for call in choice.message.tool_calls
        if call.type == "function"
    ]
    assert called == [("weather", {"city": "Zürich 🙂"}), ("now", {})]
    ids = [call.id for call in choice.message.tool_calls]
    assert len(set(ids)) == 2
    assert all(one.startswith("call_") for one in ids)


async def test_a_call_alone_leaves_the_content_null() -> None:
    _, body = await posted(Speaking(CALLS.partition("\n")[2], HERMES), chat_body(tools=TOOLS))
    assert body["choices"][0]["message"]["content"] is None


async def test_a_streamed_call_comes_with_its_name_first_and_then_its_arguments_in_pieces() -> None:
    service = Speaking(CALLS, HERMES)
    chunks: list[ChatCompletionChunk] = []
    async with spoken_to(service) as client:
        async with client.chat.completions.stream(
            model=CHAT, messages=[{"role": "user", "content": "?"}], tools=TOOLS
        ) as stream:
            async for event in stream:
                if event.type == "chunk":
                    chunks.append(event.chunk)
            final = await stream.get_final_completion()
    deltas = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    heads = [(call.index, call.function.name) for call in deltas if call.id and call.function]
    assert heads == [(0, "weather"), (1, "now")]
    pieces = [call.function.arguments for call in deltas if call.index == 0 and not call.id and call.function]
    assert len(pieces) > 2
    assert json.loads("".join(piece or "" for piece in pieces)) == {"city": "Zürich 🙂"}
    (choice,) = final.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")
    assert choice.message.tool_calls is not None
    assert [call.function.name for call in choice.message.tool_calls] == ["weather", "now"]


async def test_an_answer_that_is_cut_within_a_call_says_so() -> None:
    _, body = await posted(Speaking(CALLS[:70], HERMES, reason="length"), chat_body(tools=TOOLS))
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"


async def test_every_choice_has_calls_of_its_own() -> None:
    service = Speaking(CALLS, HERMES)
    _, body = await posted(service, chat_body(tools=TOOLS, n=2))
    ids = {call["id"] for choice in body["choices"] for call in choice["message"]["tool_calls"]}
    assert [len(choice["message"]["tool_calls"]) for choice in body["choices"]] == [2, 2]
    assert len(ids) == 4


async def test_without_tools_and_with_none_marks_are_text() -> None:
    for more in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        _, body = await posted(Speaking(CALLS, HERMES), chat_body(**more))
        assert body["choices"][0]["message"]["content"] == CALLS
        assert body["choices"][0]["finish_reason"] == "stop"


async def test_schemas_of_tools_are_never_checked_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = CheckedOn(monkeypatch)
    await asked(chat_body(tools=[WEATHER]))
    assert checked.is_off_loop


async def test_the_template_is_given_the_tools_that_may_be_called() -> None:
    service = Speaking("hi", HERMES)
    await posted(service, chat_body(tools=TOOLS))
    ((tools, _),) = service.prompts.asked
    assert tools is not None
    assert next(function.as_json() for function in tools.functions) == WEATHER


@pytest.mark.parametrize(
    ("choice", "names", "must"),
    [
        ("auto", ["weather", "now"], False),
        (None, ["weather", "now"], False),
        ("required", ["weather", "now"], True),
        ({"type": "function", "function": {"name": "now"}}, ["now"], True),
        (_allowed := {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NOW]}}, ["now"], False),
        ({**_allowed, "allowed_tools": {"mode": "required", "tools": [NOW, WEATHER]}}, ["weather", "now"], True),
    ],
)
async def test_a_choice_says_what_may_and_must_be_called(choice: Any, names: list[str], must: bool) -> None:
    job = await asked(chat_body(tools=TOOLS, **({} if choice is None else {"tool_choice": choice})))
    assert job.tools is not None
    assert [function.name for function in job.tools.functions] == names
    assert job.tools.must_call is must


async def test_a_required_call_is_held_to_a_grammar_and_a_possible_one_once_it_has_begun() -> None:
    texts = []
    for choice in ("required", "auto"):
        service = Speaking(CALLS, HERMES)
        await posted(service, chat_body(tools=TOOLS, tool_choice=choice))
        constraint = service.asked.sampling.constraint
        assert constraint is not None
        assert constraint.kind is ConstraintKind.GRAMMAR
        texts.append(constraint.text)
    assert "TAIL" not in texts[0]
    assert "TAIL" in texts[1]
    marked = Speaking(CALLS, replace(HERMES, tokens={"<tool_call>": 9}))
    await posted(marked, chat_body(tools=TOOLS))
    assert marked.asked.sampling.constraint is not None
    assert marked.asked.sampling.constraint.after == (9,)


async def test_a_model_whose_template_knows_no_tools_refuses_to_choose_and_serves_all_else() -> None:
    for more in ({"tool_choice": "none"}, {"tool_choice": "required"}, {"messages": HISTORY, "tool_choice": "none"}):
        status, _ = await posted(Speaking(CALLS, Dialect()), {**chat_body(tools=TOOLS), **more})
        assert status == 200
    status, body = await posted(Speaking(CALLS, Dialect()), chat_body(tools=TOOLS))
    assert status == 400
    assert body["error"]["param"] == "tools"
    assert "tool_choice" in body["error"]["message"]
    status, body = await posted(Speaking(CALLS, Dialect(is_refused=True)), chat_body(tools=TOOLS, tool_choice="required"))
    assert (status, body["error"]["param"]) == (400, "tools")


async def test_calls_and_results_of_earlier_turns_reach_the_template() -> None:
    job = await asked({**chat_body(), "messages": HISTORY})
    assert job.messages == (
        Message("user", (TextPart("What is the weather?"),)),
        Message("assistant", (), calls=(PastCall("a1", "weather", '{"city": "Bern"}'),)),
        Message("tool", (TextPart("rain"),), call_id="a1"),
    )


async def test_an_answer_of_the_sdk_that_calls_can_be_sent_back_as_it_is() -> None:
    async with spoken_to(Speaking(CALLS, THINKING)) as client:
        question: Any = [{"role": "user", "content": "?"}]
        first = await client.chat.completions.create(model=CHAT, messages=question, tools=TOOLS)
        message = first.choices[0].message
        assert message.tool_calls is not None
        told: Any = [{"type": "text", "text": "x"}]
        results: Any = [{"role": "tool", "tool_call_id": call.id, "content": told} for call in message.tool_calls]
        history: Any = [*question, message.model_dump(), *results]
        again = await client.chat.completions.create(model=CHAT, messages=history, tools=TOOLS)
    assert again.choices[0].message.tool_calls


async def test_functions_of_before_there_were_tools_are_read_in_earlier_turns() -> None:
    old = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "function_call": {"name": "now", "arguments": "{}"}},
        {"role": "function", "name": "now", "content": "noon"},
    ]
    job = await asked({**chat_body(), "messages": old})
    assert job.messages[1].calls == (PastCall("call_now", "now", "{}"),)
    assert (job.messages[2].role, job.messages[2].call_id) == ("tool", "call_now")


@pytest.mark.parametrize(
    ("message", "read"),
    [
        (
            {"role": "user", "content": "x", "name": "ada", "cache_control": {"type": "ephemeral"}},
            Message("user", (TextPart("x"),), name="ada"),
        ),
        ({"role": "system", "content": "x", "name": "rules"}, Message("system", (TextPart("x"),), name="rules")),
        ({"role": "assistant", "content": None, "refusal": "No."}, Message("assistant", (TextPart("No."),))),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, Message("assistant", (TextPart("No."),))),
        ({"role": "assistant", "content": "x", "reasoning": "hm"}, Message("assistant", (TextPart("x"),), reasoning="hm")),
        ({"role": "assistant", "content": "x", "annotations": [{}], "provider": 1}, Message("assistant", (TextPart("x"),))),
        (
            {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]},
            Message("user", (TextPart("x"),)),
        ),
    ],
)
async def test_what_other_servers_clients_add_to_messages_is_read_or_passed_over(message: JsonObject, read: Message) -> None:
    job = await asked({**chat_body(), "messages": [message, {"role": "user", "content": "y"}]})
    assert job.messages[0] == read


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"tools": [NOW, NOW]}, "tools[1].function.name", "there already"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name", "pattern"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "function"),
        ({"tools": [NOW], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "'f'"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "required"),
        ({"tools": [NOW] * 129}, "tools", "128"),
        (
            {"tools": [NOW, {"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
            "tools[1].function.parameters",
            "object",
        ),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": "f",
                            "strict": True,
                            "parameters": {"properties": {"a": {"uniqueItems": True, "type": "array"}}},
                        },
                    }
                ]
            },
            "tools[0].function.parameters",
            "uniqueItems",
        ),
    ],
)
async def test_tools_that_can_not_be_called_are_refused_by_their_place(fields: JsonObject, param: str, told: str) -> None:
    error = await refused(chat_body(**fields))
    assert error["param"] == param
    assert told in error["message"]


async def test_a_schema_that_can_not_be_enforced_is_told_where_it_need_not_be() -> None:
    loose = {
        "type": "function",
        "function": {"name": "f", "parameters": {"properties": {"a": {"type": "array", "uniqueItems": True}}}},
    }
    service = Speaking('<tool_call>{"name": "f", "arguments": {"a": [1, 1]}}</tool_call>', HERMES)
    status, body = await posted(service, chat_body(tools=[loose]))
    assert status == 200
    assert service.asked.sampling.constraint is None
    (note,) = body["triptych"]["notes"]
    assert note["field"] == "tools[0].function.parameters"
    assert "uniqueItems" in note["note"]
    assert body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"a": [1, 1]}'
    status, body = await posted(Speaking("", HERMES), chat_body(tools=[loose], tool_choice="required"))
    assert (status, body["error"]["param"]) == (400, "tools[0].function.parameters")


async def test_what_is_thought_is_told_apart_whole_and_streamed() -> None:
    said = "<think>\nThe user greets.\n</think>\n\nHello!"
    _, body = await posted(Speaking(said, THINKING), chat_body())
    assert body["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Hello!",
        "refusal": None,
        "reasoning_content": "The user greets.",
    }
    counted = body["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert 0 < counted < body["usage"]["completion_tokens"]
    async with spoken_to(Speaking(said, THINKING)) as client:
        stream = await client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "?"}], stream=True)
        deltas = [choice.delta async for chunk in stream for choice in chunk.choices]
    assert "".join((delta.model_extra or {}).get("reasoning_content", "") for delta in deltas) == "The user greets."
    assert "".join(delta.content or "" for delta in deltas) == "Hello!"


async def test_a_form_that_is_asked_for_begins_behind_a_thought_that_the_prompt_began() -> None:
    asked_for = {"response_format": {"type": "json_object"}}
    service = Speaking("hm</think>{}", THINKING, begun="<|im_start|>assistant\n<think>\n")
    _, body = await posted(service, chat_body(**asked_for))
    constraint = service.asked.sampling.constraint
    assert constraint is not None
    assert (constraint.after, constraint.may_end_before) == ((7,), False)
    message = body["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm", "{}")
    plain = Speaking("{}", THINKING, begun="<think>\n\n</think>\n\n")
    await posted(plain, chat_body(**asked_for))
    assert plain.asked.sampling.constraint == Constraint(ConstraintKind.JSON_OBJECT)
    may = Speaking("{}", THINKING)
    await posted(may, chat_body(**asked_for))
    assert may.asked.sampling.constraint is not None
    assert "(thought lines)?" in may.asked.sampling.constraint.text


async def test_an_answer_may_call_or_have_the_form_that_is_asked_for() -> None:
    service = Speaking("{}", HERMES)
    await posted(service, chat_body(tools=TOOLS, response_format={"type": "json_object"}))
    assert service.asked.sampling.constraint is not None
    assert "start: lines (answer |" in service.asked.sampling.constraint.text
    status, body = await posted(Speaking("", HERMES), chat_body(tools=TOOLS, guided_grammar='start: "a"'))
    assert (status, body["error"]["param"]) == (400, "tools")


async def test_settings_of_the_template_reach_it_and_those_that_it_has_not_are_told() -> None:
    service = Speaking("hi", HERMES, variables=("enable_thinking",))
    _, body = await posted(
        service,
        chat_body(chat_template_kwargs={"enable_thinking": False, "colour": "red"}, reasoning_effort="none", verbosity="low"),
    )
    ((_, options),) = service.prompts.asked
    assert options.variables["enable_thinking"] is False
    assert [note["field"] for note in body["triptych"]["notes"]] == ["verbosity", "chat_template_kwargs.colour"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"_private": 1}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"n": 10**9}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"text": "x" * 9000}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"deep": [[[[[[1]]]]]]}}, "chat_template_kwargs"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"reasoning_effort": "a lot"}, "reasoning_effort"),
    ],
)
async def test_settings_that_no_template_may_be_given_are_refused(fields: JsonObject, param: str) -> None:
    assert (await refused(chat_body(**fields)))["param"] == param


async def test_an_answer_goes_on_with_the_last_message_and_may_repeat_it() -> None:
    messages = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One, "}]
    service = Speaking("two.", HERMES)
    _, body = await posted(service, {**chat_body(continue_final_message=True, echo=True), "messages": messages})
    assert body["choices"][0]["message"]["content"] == "One, two."
    ((_, options),) = service.prompts.asked
    assert (options.continues, options.begins_answer) == (True, False)


async def test_what_has_no_effect_is_told_where_it_might_have_had_one() -> None:
    _, body = await posted(
        Speaking("hi", HERMES), chat_body(store=True, service_tier="flex", prediction={"type": "content", "content": "x"})
    )
    assert [note["field"] for note in body["triptych"]["notes"]] == ["store", "service_tier", "prediction"]
    _, body = await posted(Speaking("hi", HERMES), chat_body(store=False, service_tier="auto"))
    assert "notes" not in body["triptych"]


async def test_a_stream_that_is_refused_is_refused_before_it_begins() -> None:
    async with spoken_to(Speaking(CALLS, Dialect())) as client:
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(
                model=CHAT, messages=[{"role": "user", "content": "?"}], tools=TOOLS, stream=True
            )
