"""LiteLLM, told that the server is one of OpenAI's kind: chats, streams, tools, structured output, pictures, embeddings."""

import json
from typing import Any

import litellm
import pytest

from tests.clients.asked import CLIP, KEY, PAINT, SEE, SHORT, Shape, base_url, data_url, is_png, png

ASKED: list[Any] = [{"role": "user", "content": "Which shape is red?"}]
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "draw", "description": "Draws.", "parameters": Shape.model_json_schema()}}
]


def server(model: str) -> dict[str, Any]:
    return {"model": f"openai/{model}", "api_base": base_url(), "api_key": KEY, "num_retries": 0}


def test_an_answer_about_a_picture() -> None:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": data_url(png())}}]
    answer = litellm.completion(messages=[{"role": "user", "content": parts}], max_tokens=SHORT, **server(SEE))
    assert answer.choices[0].message.content
    assert 0 < answer.usage.completion_tokens <= SHORT


async def test_a_stream_with_asyncio() -> None:
    stream = await litellm.acompletion(
        messages=ASKED, max_tokens=SHORT, stream=True, stream_options={"include_usage": True}, **server(SEE)
    )
    chunks = [chunk async for chunk in stream]
    whole = litellm.stream_chunk_builder(chunks, messages=ASKED)
    assert whole.choices[0].message.content
    assert whole.usage.completion_tokens <= SHORT


def test_structured_output_is_what_was_asked_for() -> None:
    answer = litellm.completion(messages=ASKED, response_format=Shape, **server(SEE))
    Shape.model_validate_json(answer.choices[0].message.content)


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_must_be_called_is(stream: bool) -> None:
    answer = litellm.completion(
        messages=ASKED, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, stream=stream, **server(SEE)
    )
    answer = litellm.stream_chunk_builder(list(answer)) if stream else answer
    assert answer.choices[0].finish_reason == "tool_calls"
    for call in answer.choices[0].message.tool_calls:
        Shape.model_validate_json(call.function.arguments)
    told = [{"role": "tool", "tool_call_id": call.id, "content": "drawn"} for call in answer.choices[0].message.tool_calls]
    history = [*ASKED, json.loads(answer.choices[0].message.model_dump_json()), *told]
    after = litellm.completion(messages=history, tools=TOOLS, max_tokens=SHORT, **server(SEE))
    assert after.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_a_picture_is_painted_and_a_text_is_embedded_and_completed() -> None:
    painted = litellm.image_generation(prompt="a red circle", size="64x64", **server(PAINT))
    assert is_png(painted.data[0].b64_json)
    embedded = litellm.embedding(input=["a circle", "a square"], **server(CLIP))
    assert len(embedded.data) == 2
    completed = litellm.text_completion(prompt="A red", max_tokens=SHORT, **server(SEE))
    assert completed.choices[0].text


def test_the_newer_api_answers() -> None:
    answer = litellm.responses(input="Name a shape.", max_output_tokens=SHORT, **server(SEE))
    assert answer.output[0].content[0].text


def test_what_is_unknown_or_refused_is_the_error_class_that_the_client_has_for_it() -> None:
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(messages=ASKED, **server("no-such-model"))
    with pytest.raises(litellm.BadRequestError, match="top_n"):
        litellm.completion(messages=ASKED, top_n=3, **server(SEE))
