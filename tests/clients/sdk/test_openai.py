"""OpenAI's own client: plain and with asyncio, its parser of answers, its collectors of streams, and its newer API."""

import io
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest

from tests.clients.asked import CLIP, KEY, PAINT, SEE, SHORT, Shape, base_url, data_url, is_png, png

ASKED: list[Any] = [{"role": "user", "content": "Which shape do you see?"}]
SHAPE_TOOL: Any = openai.pydantic_function_tool(Shape, name="draw")


@pytest.fixture
def client() -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url(), api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
async def waiting() -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=base_url(), api_key=KEY, max_retries=0) as client:
        yield client


def test_an_answer_about_a_picture_and_what_it_cost(client: openai.OpenAI) -> None:
    parts: Any = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": data_url(png()), "detail": "auto"}},
    ]
    answer = client.chat.completions.create(model=SEE, messages=[{"role": "user", "content": parts}], max_tokens=SHORT)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= SHORT
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_a_stream_with_asyncio_and_its_usage(waiting: openai.AsyncOpenAI) -> None:
    stream = await waiting.chat.completions.create(
        model=SEE, messages=ASKED, max_completion_tokens=SHORT, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_an_answer_is_parsed_into_the_model_that_was_asked_for(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(model=SEE, messages=ASKED, response_format=Shape)
    assert isinstance(answer.choices[0].message.parsed, Shape)


def test_a_stream_is_collected_and_parsed(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=SEE, messages=ASKED, response_format=Shape) as stream:
        kinds = {event.type for event in stream}
        assert {"chunk", "content.delta", "content.done"} <= kinds
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Shape)


def test_a_named_tool_is_called_with_arguments_that_parse_and_its_result_is_read(client: openai.OpenAI) -> None:
    choice: Any = {"type": "function", "function": {"name": "draw"}}
    answer = client.chat.completions.parse(model=SEE, messages=ASKED, tools=[SHAPE_TOOL], tool_choice=choice)
    (call,) = answer.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Shape)
    told: Any = {"role": "tool", "tool_call_id": call.id, "content": "drawn"}
    history: list[Any] = [*ASKED, answer.choices[0].message.model_dump(), told]
    after = client.chat.completions.create(model=SEE, messages=history, tools=[SHAPE_TOOL], max_tokens=SHORT)
    assert after.choices[0].finish_reason in ("stop", "length", "tool_calls")


async def test_a_streamed_call_is_collected_and_parsed(waiting: openai.AsyncOpenAI) -> None:
    async with waiting.chat.completions.stream(
        model=SEE, messages=ASKED, tools=[SHAPE_TOOL], tool_choice="required", parallel_tool_calls=False
    ) as stream:
        done = [event async for event in stream if event.type == "tool_calls.function.arguments.done"]
    assert [event.name for event in done] == ["draw"]
    assert isinstance(done[0].parsed_arguments, Shape)


def test_what_cannot_be_done_is_the_error_class_that_the_client_has_for_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="no-such-model", messages=ASKED)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=SEE, messages=ASKED, extra_body={"temprature": 1})
    assert refused.value.param == "temprature"


def test_responses_with_a_picture_instructions_and_a_parsed_answer(client: openai.OpenAI) -> None:
    parts: Any = [
        {"type": "input_text", "text": "Which shape?"},
        {"type": "input_image", "image_url": data_url(png()), "detail": "auto"},
    ]
    answer = client.responses.create(
        model=SEE, instructions="Be brief.", input=[{"role": "user", "content": parts}], max_output_tokens=SHORT, store=False
    )
    assert answer.output_text
    parsed = client.responses.parse(model=SEE, input="Which shape?", text_format=Shape)
    assert isinstance(parsed.output_parsed, Shape)


def test_responses_call_a_function_and_read_what_it_returned(client: openai.OpenAI) -> None:
    tool: Any = {
        "type": "function",
        "name": "draw",
        "parameters": SHAPE_TOOL["function"]["parameters"],
        "strict": True,
    }
    answer = client.responses.create(model=SEE, input="Draw one.", tools=[tool], tool_choice="required")
    calls = [item for item in answer.output if item.type == "function_call"]
    assert calls
    Shape.model_validate_json(calls[0].arguments)
    results: list[Any] = [{"type": "function_call_output", "call_id": call.call_id, "output": "drawn"} for call in calls]
    asked: list[Any] = [{"role": "user", "content": "Draw one."}, *answer.output, *results]
    after = client.responses.create(model=SEE, input=asked, max_output_tokens=SHORT)
    assert after.output_text


def test_responses_are_streamed_into_the_clients_own_collector(client: openai.OpenAI) -> None:
    with client.responses.stream(model=SEE, input="Which shape?", text_format=Shape) as stream:
        kinds = [event.type for event in stream]
        assert isinstance(stream.get_final_response().output_parsed, Shape)
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert "response.output_text.delta" in kinds


def test_a_picture_is_painted_edited_and_varied(client: openai.OpenAI) -> None:
    few_steps = {"num_inference_steps": 2}
    painted = client.images.generate(
        model=PAINT, prompt="a red circle", size="64x64", response_format="b64_json", extra_body=few_steps
    )
    assert painted.data is not None
    assert is_png(painted.data[0].b64_json)
    picture = ("a.png", io.BytesIO(png()), "image/png")
    edited = client.images.edit(model=PAINT, image=picture, prompt="a blue square", extra_body=few_steps)
    assert edited.data is not None
    assert is_png(edited.data[0].b64_json)
    varied = client.images.create_variation(model=PAINT, image=picture, response_format="b64_json", extra_body=few_steps)
    assert varied.data is not None
    assert is_png(varied.data[0].b64_json)
    with client.images.generate(
        model=PAINT, prompt="a red circle", stream=True, partial_images=1, extra_body=few_steps
    ) as stream:
        kinds = [event.type for event in stream]
    assert kinds[-1] == "image_generation.completed"


def test_texts_are_embedded_and_models_are_listed(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=CLIP, input=["a circle", "a square"])
    lengths = {len(entry.embedding) for entry in answer.data}
    assert [entry.index for entry in answer.data] == [0, 1]
    assert lengths != {0}
    assert len(lengths) == 1
    assert {SEE, PAINT, CLIP} <= {model.id for model in client.models.list()}


def test_plain_completions_with_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=SEE, prompt=["A red", "A blue"], max_tokens=4, logprobs=2, echo=True)
    assert [choice.text[:3] for choice in answer.choices] == ["A r", "A b"]
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.token_logprobs is not None
    assert len(told.token_logprobs) == len(told.tokens or ())


def test_a_batch_of_a_file_is_taken_and_called_off(client: openai.OpenAI) -> None:
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": SEE, "messages": ASKED, "max_tokens": 2},
    }
    file = client.files.create(file=("asked.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert client.batches.retrieve(batch.id).request_counts is not None
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled", "completed", "finalizing")
