"""Calls end to end, by OpenAI's own client over a real socket: an untrained model calls with arguments that fit their schema, thinks
before it answers, and ends where it is told to."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessageFunctionToolCall

from pipelines.ingress.request.settings import settings_of
from pipelines.one_process import one_process
from pipelines.settings.config_file import parse
from tests.pipelines.ingress.surface import server_for
from tests.pipelines.tools.templates import BY_FORMAT, PLAIN, THINKING
from tests.stages.llm.tiny_models import save_decoder

pytestmark = [pytest.mark.models, pytest.mark.timeout(600)]

ASKED: list[Any] = [{"role": "user", "content": "What is the weather?"}]
SCHEMAS: dict[str, Any] = {
    "weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 6},
            "unit": {"enum": ["C", "F"]},
            "days": {"type": "array", "items": {"$ref": "#/$defs/day"}, "maxItems": 2},
        },
        "required": ["city", "unit", "days"],
        "additionalProperties": False,
        "$defs": {"day": {"type": "integer", "minimum": 1, "maximum": 31}},
    },
    "now": {"type": "object", "properties": {}, "additionalProperties": False},
}
TOOLS: Any = [{"type": "function", "function": {"name": name, "parameters": schema}} for name, schema in SCHEMAS.items()]
MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
SPECIAL = "[TOOL_CALLS]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder whose tokenizer has the marks as tokens: those of Hermes as words, Mistral's as a special one."""
    from tokenizers import AddedToken
    from transformers import AutoTokenizer

    folder = save_decoder(
        "llama", tmp_path_factory.mktemp("llama"), vocab_size=400 + len(MARKS) + 1, max_position_embeddings=2048
    )
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.add_tokens([AddedToken(mark, special=False) for mark in MARKS])
    tokenizer.add_tokens([AddedToken(SPECIAL, special=True)], special_tokens=True)
    tokenizer.save_pretrained(str(folder))
    return folder


def token(mark: str) -> int:
    return 400 + (*MARKS, SPECIAL).index(mark)


@asynccontextmanager
async def served(folder: Path, template: str, **model: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    (folder / "chat_template.jinja").write_text(template)
    llm = {"loader": "transformers", "source": {"folder": str(folder)}, "dtype": "float32", "max_context_tokens": 2048}
    config = parse({"models": {"m": {"pipeline": "image_text", "llm": llm, **model}}})
    async with one_process(config) as service, server_for(service, settings_of(config)) as address:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            yield client


def calls_of(answer: ChatCompletion) -> Sequence[ChatCompletionMessageFunctionToolCall]:
    """Of all choices that came to an end, each having one at least."""
    ended = [choice for choice in answer.choices if choice.finish_reason == "tool_calls"]
    assert ended
    assert all(choice.message.tool_calls for choice in ended)
    calls = [call for choice in ended for call in choice.message.tool_calls or ()]
    return [call for call in calls if call.type == "function"]


def check(calls: Sequence[ChatCompletionMessageFunctionToolCall]) -> None:
    for call in calls:
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


@pytest.mark.parametrize("form", ["hermes", "mistral", "llama3", "deepseek_v3", "pythonic", "qwen_coder"])
async def test_a_required_call_has_arguments_that_fit_its_schema(folder: Path, form: str) -> None:
    async with served(folder, BY_FORMAT[form]) as client:
        answer = await client.chat.completions.create(
            model="m",
            messages=ASKED,
            tools=TOOLS,
            tool_choice="required",
            n=4,
            seed=1,
            max_tokens=300,
            parallel_tool_calls=False,
        )
        named = await client.chat.completions.create(
            model="m",
            messages=ASKED,
            tools=TOOLS,
            tool_choice={"type": "function", "function": {"name": "weather"}},
            n=2,
            seed=2,
            max_tokens=300,
        )
    assert all(choice.message.content is None for choice in answer.choices)
    check(calls_of(answer))
    check(calls_of(named))
    assert {call.function.name for call in calls_of(named)} == {"weather"}


async def test_a_template_without_tools_still_calls_where_it_must(folder: Path) -> None:
    async with served(folder, PLAIN) as client:
        answer = await client.chat.completions.create(
            model="m", messages=ASKED, tools=TOOLS, tool_choice="required", seed=3, max_tokens=300, parallel_tool_calls=False
        )
        check(calls_of(answer))
        with pytest.raises(openai.BadRequestError, match="knows no tools"):
            await client.chat.completions.create(model="m", messages=ASKED, tools=TOOLS)
    async with served(folder, PLAIN, tools="hermes") as client:
        await client.chat.completions.create(model="m", messages=ASKED, tools=TOOLS, max_tokens=5)


@pytest.mark.parametrize(("form", "mark"), [("hermes", "<tool_call>"), ("mistral", SPECIAL)])
async def test_a_call_that_the_model_chooses_to_make_fits_its_schema_too_and_streams(
    folder: Path, form: str, mark: str
) -> None:
    """Its first token is made to be the mark."""
    settings: dict[str, Any] = {
        "model": "m",
        "messages": ASKED,
        "tools": TOOLS,
        "seed": 5,
        "max_tokens": 300,
        "parallel_tool_calls": False,
        "logit_bias": {str(token(mark)): 100},
    }
    async with served(folder, BY_FORMAT[form]) as client:
        whole = await client.chat.completions.create(**settings)
        async with client.chat.completions.stream(**settings) as stream:
            async for _ in stream:
                pass
            streamed = await stream.get_final_completion()
    check(calls_of(whole))
    assert streamed.choices[0].message.tool_calls is not None
    again = streamed.choices[0].message.tool_calls[0]
    assert again.function.arguments == calls_of(whole)[0].function.arguments
    assert again.id


async def test_earlier_calls_and_results_are_written_by_the_template(folder: Path) -> None:
    history: Any = [
        *ASKED,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    for form in ("hermes", "mistral", "llama3"):
        async with served(folder, BY_FORMAT[form]) as client:
            answer = await client.chat.completions.create(model="m", messages=history, max_tokens=3)
            assert answer.choices[0].message.role == "assistant"


async def test_a_thought_is_told_apart_and_the_form_holds_behind_it(folder: Path) -> None:
    end = {str(token("</think>")): 5}
    asked: dict[str, Any] = {"model": "m", "messages": ASKED, "seed": 6, "max_tokens": 300, "logit_bias": end}
    choices = {"guided_choice": ["yes", "no"], "chat_template_kwargs": {"begins_thought": True}}
    async with served(folder, THINKING) as client:
        held = await client.chat.completions.create(**asked, n=6, extra_body=choices)
        called = await client.chat.completions.create(
            **asked,
            tools=TOOLS,
            tool_choice="required",
            parallel_tool_calls=False,
            extra_body={"chat_template_kwargs": {"begins_thought": True}},
        )
    assert {choice.message.content for choice in held.choices} <= {"yes", "no"}
    thoughts = [(choice.message.model_extra or {}).get("reasoning_content") for choice in held.choices]
    assert any(thoughts)
    assert held.usage is not None
    assert held.usage.completion_tokens_details is not None
    check(calls_of(called))


async def test_an_answer_ends_where_it_is_told_to(folder: Path) -> None:
    end, letter = 2, 50

    async def said(bias: dict[str, int], **more: Any) -> tuple[str, int, str]:
        answer = await client.chat.completions.create(
            model="m", messages=ASKED, max_tokens=8, seed=7, logit_bias=bias, extra_body=more
        )
        assert answer.usage is not None
        (choice,) = answer.choices
        return choice.finish_reason, answer.usage.completion_tokens, choice.message.content or ""

    async with served(folder, PLAIN) as client:
        ends, speaks = {str(end): 100}, {str(letter): 100}
        assert (await said(ends))[:2] == ("stop", 1)
        assert (await said(ends, min_tokens=4))[:2] == ("stop", 5)
        assert (await said(ends, ignore_eos=True))[:2] == ("length", 8)
        assert await said(ends, include_stop_str_in_output=True, skip_special_tokens=False) == ("stop", 1, "<|im_end|>")
        assert (await said(ends, ignore_eos=True, skip_special_tokens=False))[2] == "<|im_end|>" * 8
        assert await said(speaks, stop_token_ids=[letter]) == ("stop", 1, "")
        reason, count, text = await said(speaks, stop_token_ids=[letter], include_stop_str_in_output=True, min_tokens=2)
        assert (reason, count) == ("stop", 3)
        assert text
        with pytest.raises(openai.BadRequestError, match="min_tokens 9 is more than max_tokens"):
            await said(ends, min_tokens=9)
        with pytest.raises(openai.BadRequestError, match="stop_token_ids names token 99999"):
            await said(ends, stop_token_ids=[99999])
