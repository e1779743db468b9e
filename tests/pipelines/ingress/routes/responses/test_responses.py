"""POST /v1/responses over the whole surface: its objects and events are OpenAI's to the letter, and the SDK's own collector takes them."""

import base64
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from PIL import Image
from pydantic import BaseModel, TypeAdapter

from pipelines.ingress.request.settings import IngressSettings
from pipelines.jobs import ChatJob, ImagePart, PaintJob, TextPart
from pipelines.settings.schema.config import LimitsConfig
from pipelines.tools.events import ReasoningDelta, ToolArgumentsDelta, ToolCallBegun
from stages.contract.errors import InvalidRequest, StageFailed
from stages.llm.messages import GenerationEnd, TokenDelta
from tests.pipelines.ingress.fakes import CHAT, PAINT, FakeService, Trouble
from tests.pipelines.ingress.surface import JsonObject, client_for, data_url, error_of, png, server_for, sse_events

PATH = "/v1/responses"
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
PAINT_TOOL = {"type": "image_generation", "size": "48x32", "output_format": "webp"}
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True}
THINKS_AND_CALLS = (
    ReasoningDelta("Let me", 2),
    ReasoningDelta(" see.", 1),
    TokenDelta("I ask.", 1),
    ToolCallBegun(0, "call_1", "f"),
    ToolArgumentsDelta(0, '{"a":'),
    ToolArgumentsDelta(0, "1}"),
    ToolCallBegun(1, "call_2", "f"),
    ToolArgumentsDelta(1, "{}"),
    GenerationEnd("tool_calls", 9, 2),
)
PAINTS = (
    TokenDelta("Here.", 1),
    ToolCallBegun(0, "call_1", "image_generation"),
    ToolArgumentsDelta(0, '{"prompt": "a cat"}'),
    GenerationEnd("tool_calls", 9, 2),
)


def body(input: Any = "a bc", **fields: Any) -> JsonObject:
    return {"model": CHAT, "input": input, **fields}


async def answered(asked: JsonObject, service: FakeService | None = None) -> JsonObject:
    async with client_for(service or FakeService()) as client:
        response = await client.post(PATH, json=asked)
    assert response.status_code == 200, response.text
    Response.model_validate_json(response.text)
    return dict(response.json())


async def streamed(asked: JsonObject, service: FakeService | None = None) -> list[JsonObject]:
    async with client_for(service or FakeService()) as client:
        response = await client.post(PATH, json=asked | {"stream": True})
    assert response.status_code == 200, response.text
    events = sse_events(response.text)
    for number, event in enumerate(events):
        EVENT.validate_python(event)
        assert event["sequence_number"] == number
    return events


async def refused(asked: JsonObject, status: int = 400) -> JsonObject:
    service = FakeService()
    async with client_for(service) as client:
        response = await client.post(PATH, json=asked)
    assert response.status_code == status, response.text
    assert service.jobs == []
    return error_of(response)


async def test_an_answer_is_a_response_with_exact_usage_and_a_receipt() -> None:
    told = await answered(body(metadata={"a": "b"}, store=True, user="me"))
    assert (told["object"], told["status"], told["model"]) == ("response", "completed", CHAT)
    (message,) = told["output"]
    assert message["content"] == [{"type": "output_text", "text": "You said: a bc", "annotations": [], "logprobs": []}]
    assert (told["usage"]["input_tokens"], told["usage"]["output_tokens"], told["usage"]["total_tokens"]) == (2, 4, 6)
    assert (told["store"], told["previous_response_id"], told["metadata"]) == (False, None, {"a": "b"})
    assert told["triptych"]["stages"]


async def test_items_and_images_reach_the_model() -> None:
    service = FakeService()
    parts = [{"type": "input_text", "text": "What?"}, {"type": "input_image", "image_url": data_url(png(6, 5))}]
    await answered(body([{"role": "user", "content": parts}], instructions="Be brief."), service)
    (job,) = service.jobs
    assert isinstance(job, ChatJob)
    assert job.messages[0].parts == (TextPart("Be brief."),)
    image = job.messages[1].parts[1]
    assert isinstance(image, ImagePart)
    assert (image.width, image.height) == (6, 5)


async def test_a_bad_image_is_named_as_the_body_has_it() -> None:
    parts = [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]
    error = await refused(body([{"role": "user", "content": parts}], instructions="Be brief."))
    assert error["param"] == "input[0].content[0].image_url"


async def test_a_bound_that_was_reached_leaves_the_answer_incomplete() -> None:
    told = await answered(body(max_output_tokens=2))
    assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert told["output"][0]["status"] == "incomplete"
    assert (await streamed(body(max_output_tokens=2)))[-1]["type"] == "response.incomplete"


async def test_thoughts_words_and_calls_are_items_one_behind_the_other() -> None:
    told = await answered(body(tools=[FUNCTION]), FakeService(script=THINKS_AND_CALLS))
    thought, message, first, second = told["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Let me see."}]
    assert message["content"][0]["text"] == "I ask."
    assert [(call["call_id"], call["name"], call["arguments"]) for call in (first, second)] == [
        ("call_1", "f", '{"a":1}'),
        ("call_2", "f", "{}"),
    ]
    assert told["usage"]["output_tokens_details"] == {"reasoning_tokens": 3}
    assert told["status"] == "completed"


async def test_a_stream_tells_of_each_item_from_its_beginning_to_its_end() -> None:
    events = await streamed(body(tools=[FUNCTION]), FakeService(script=THINKS_AND_CALLS))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta", "reasoning_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]


async def test_an_answer_without_a_word_is_an_empty_message() -> None:
    told = await answered(body(), FakeService(script=(GenerationEnd("stop", 1),)))
    assert told["output"][0]["content"][0]["text"] == ""
    await streamed(body(), FakeService(script=(GenerationEnd("stop", 1),)))


async def test_logprobs_come_where_they_are_asked_for() -> None:
    told = await answered(body(top_logprobs=2))
    entry = told["output"][0]["content"][0]["logprobs"][0]
    assert (entry["token"], len(entry["top_logprobs"])) == ("You", 2)
    events = await streamed(body(include=["message.output_text.logprobs"]))
    assert all(event["logprobs"] for event in events if event["type"] == "response.output_text.delta")


async def test_what_a_model_wants_painted_is_painted() -> None:
    service = FakeService(script=PAINTS)
    told = await answered(body(tools=[PAINT_TOOL]), service)
    message, painted = told["output"]
    assert message["content"][0]["text"] == "Here."
    assert (painted["type"], painted["status"], painted["revised_prompt"]) == ("image_generation_call", "completed", "a cat")
    assert Image.open(io.BytesIO(base64.b64decode(painted["result"]))).size == (48, 32)
    assert isinstance(service.jobs[-1], PaintJob)
    assert {stage["stage"].partition(".")[0] for stage in told["triptych"]["stages"]} == {CHAT, PAINT}


async def test_a_painting_is_told_as_it_grows() -> None:
    events = await streamed(body(tools=[PAINT_TOOL | {"partial_images": 2}]), FakeService(script=PAINTS))
    of_images = [
        event["type"].removeprefix("response.image_generation_call.") for event in events if "image_gen" in event["type"]
    ]
    assert of_images == ["in_progress", "generating", "partial_image", "partial_image", "completed"]
    assert events[-1]["response"]["output"][1]["result"]


async def test_what_a_painter_refuses_later_is_told_as_the_body_has_it() -> None:
    for param, told in (("sampler", "tools[0].scheduler"), ("prompt", "input"), ("width", "tools[0].size")):
        service = FakeService(script=PAINTS, trouble=Trouble(InvalidRequest(f"{param} is bad", param=param), after=6))
        async with client_for(service) as client:
            response = await client.post(PATH, json=body(tools=[PAINT_TOOL]))
        assert response.status_code == 400
        assert error_of(response)["param"] == told
        assert error_of(response)["message"].startswith(f"{told} is bad")


async def test_a_painting_without_words_is_told_as_failed() -> None:
    script = (ToolCallBegun(0, "c", "image_generation"), ToolArgumentsDelta(0, "{"), GenerationEnd("tool_calls", 9))
    told = await answered(body(tools=[PAINT_TOOL]), FakeService(script=script))
    assert (told["output"][0]["status"], told["output"][0]["result"]) == ("failed", None)


@pytest.mark.parametrize(
    ("fields", "limit", "painted"), [({"max_tool_calls": 1}, 10, 1), ({}, 2, 2), ({"max_tool_calls": 9}, 2, 2), ({}, 10, 3)]
)
async def test_no_more_is_painted_than_the_client_and_the_server_allow(fields: JsonObject, limit: int, painted: int) -> None:
    wanted = [
        event
        for place, prompt in enumerate(("a cat", "a dog", "a hen"))
        for event in (
            ToolCallBegun(place, f"c{place}", "image_generation"),
            ToolArgumentsDelta(place, json.dumps({"prompt": prompt})),
        )
    ]
    service = FakeService(script=(*wanted, GenerationEnd("tool_calls", 9)))
    settings = IngressSettings(limits=LimitsConfig(max_images=limit))
    async with client_for(service, settings) as client:
        response = await client.post(PATH, json=body(tools=[PAINT_TOOL], **fields))
    Response.model_validate_json(response.text)
    items = response.json()["output"]
    assert [item["status"] for item in items] == ["completed"] * painted + ["failed"] * (3 - painted)
    assert [bool(item["result"]) for item in items] == [True] * painted + [False] * (3 - painted)
    assert [job.prompt for job in service.jobs if isinstance(job, PaintJob)] == ["a cat", "a dog", "a hen"][:painted]


async def test_a_stream_tells_of_paintings_that_are_not_painted() -> None:
    again = (ToolCallBegun(1, "c2", "image_generation"), ToolArgumentsDelta(1, '{"prompt": "a dog"}'))
    script = (*PAINTS[:-1], *again, PAINTS[-1])
    events = await streamed(body(tools=[PAINT_TOOL], max_tool_calls=1), FakeService(script=script))
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [item["status"] for item in done] == ["completed", "completed", "failed"]
    assert done == events[-1]["response"]["output"]


@pytest.mark.parametrize(
    ("tool", "param", "status"),
    [
        ({"size": "big"}, "tools[0].size", 400),
        ({"size": "5000x32"}, "tools[0].size", 400),
        ({"model": CHAT}, "tools[0].model", 400),
        ({"model": "nope"}, "tools[0].model", 404),
        ({"output_format": "gif"}, "tools[0].output_format", 400),
    ],
)
async def test_what_cannot_be_painted_is_refused_before_anything_runs(tool: JsonObject, param: str, status: int) -> None:
    assert (await refused(body(tools=[{"type": "image_generation"} | tool]), status))["param"] == param


async def test_a_function_of_that_name_is_the_clients_own_where_the_tool_is_not_given() -> None:
    told = await answered(body(tools=[FUNCTION | {"name": "image_generation"}]), FakeService(script=PAINTS))
    assert told["output"][1]["type"] == "function_call"


async def test_an_error_before_the_first_event_has_its_status_and_one_after_it_is_an_event() -> None:
    async with client_for(FakeService(trouble=Trouble(StageFailed("broke")))) as client:
        assert (await client.post(PATH, json=body(stream=True))).status_code == 500
    async with client_for(FakeService(trouble=Trouble(StageFailed("broke"), after=2))) as client:
        *_, last = sse_events((await client.post(PATH, json=body(stream=True))).text)
    assert last["error"]["code"] == "stage_failed"


class Colour(BaseModel):
    name: str
    hex: str


@pytest.fixture
async def sdk() -> AsyncIterator[tuple[openai.AsyncOpenAI, FakeService]]:
    service = FakeService()
    async with server_for(service, IngressSettings()) as address:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            yield client, service


async def test_the_sdk_creates(sdk: tuple[openai.AsyncOpenAI, FakeService]) -> None:
    client, _ = sdk
    answer = await client.responses.create(model=CHAT, input="a bc")
    assert answer.output_text == "You said: a bc"


async def test_the_sdk_streams_and_collects(sdk: tuple[openai.AsyncOpenAI, FakeService]) -> None:
    client, service = sdk
    service.script = THINKS_AND_CALLS
    async with client.responses.stream(model=CHAT, input="a", tools=[FUNCTION]) as stream:  # type: ignore[list-item]
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[-1] == "response.completed"
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]


async def test_the_sdk_parses(sdk: tuple[openai.AsyncOpenAI, FakeService]) -> None:
    client, service = sdk
    service.script = (TokenDelta('{"name": "red", "hex": "#f00"}', 9), GenerationEnd("stop", 9))
    answer = await client.responses.parse(model=CHAT, input="a colour", text_format=Colour)
    assert answer.output_parsed == Colour(name="red", hex="#f00")
    (job,) = service.jobs
    assert isinstance(job, ChatJob)
    assert job.sampling.constraint is not None
    assert json.loads(job.sampling.constraint.text)["required"] == ["name", "hex"]


async def test_an_answer_that_ended_in_its_thoughts_can_be_sent_back(sdk: tuple[openai.AsyncOpenAI, FakeService]) -> None:
    client, service = sdk
    service.script = (ReasoningDelta("Let me", 2), GenerationEnd("length", 2))
    first = await client.responses.create(model=CHAT, input="a", max_output_tokens=2)
    assert first.status == "incomplete"
    items: Any = [
        {"role": "user", "content": "a"},
        *[item.model_dump() for item in first.output],
        {"role": "user", "content": "b"},
    ]
    service.script = ()
    again = await client.responses.create(model=CHAT, input=items)
    assert again.status == "completed"
    job = service.jobs[-1]
    assert isinstance(job, ChatJob)
    assert [message.reasoning for message in job.messages] == [None, "Let me", None]


async def test_an_answers_items_can_be_sent_back_as_they_are(sdk: tuple[openai.AsyncOpenAI, FakeService]) -> None:
    client, service = sdk
    service.script = THINKS_AND_CALLS
    first = await client.responses.create(model=CHAT, input="a", tools=[FUNCTION])  # type: ignore[list-item]
    outputs = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "5"}
        for item in first.output
        if item.type == "function_call"
    ]
    items: Any = [{"role": "user", "content": "a"}, *[item.model_dump() for item in first.output], *outputs]
    service.script = ()
    again = await client.responses.create(model=CHAT, input=items, tools=[FUNCTION])  # type: ignore[list-item]
    assert again.status == "completed"
    job = service.jobs[-1]
    assert isinstance(job, ChatJob)
    assert [message.role for message in job.messages] == ["user", "assistant", "tool", "tool"]
    assert job.messages[1].reasoning == "Let me see."
    assert [call.id for call in job.messages[1].calls] == ["call_1", "call_2"]
