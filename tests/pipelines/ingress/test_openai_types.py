"""What is answered is valid as OpenAI's own types, to the letter: the SDK itself builds them without looking."""

from typing import Any

import pytest
from openai.types import CreateEmbeddingResponse, ImagesResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.image_edit_completed_event import ImageEditCompletedEvent
from openai.types.image_edit_partial_image_event import ImageEditPartialImageEvent
from openai.types.image_gen_completed_event import ImageGenCompletedEvent
from openai.types.image_gen_partial_image_event import ImageGenPartialImageEvent
from pydantic import BaseModel

from tests.pipelines.ingress.fakes import EMBED, PAINT, FakeService
from tests.pipelines.ingress.surface import JsonObject, chat_body, client_for, png, sse_events

LOGPROBS: JsonObject = {"logprobs": True, "top_logprobs": 2}
PAINTING: JsonObject = {"model": PAINT, "prompt": "a boat"}
STREAMED: JsonObject = {"stream": True, "partial_images": 2}
EVENTS: dict[str, type[BaseModel]] = {
    "image_generation.partial_image": ImageGenPartialImageEvent,
    "image_generation.completed": ImageGenCompletedEvent,
    "image_edit.partial_image": ImageEditPartialImageEvent,
    "image_edit.completed": ImageEditCompletedEvent,
}


async def posted(path: str, **request: Any) -> str:
    async with client_for(FakeService()) as client:
        response = await client.post(path, **request)
    assert response.status_code == 200, response.text
    return response.text


@pytest.mark.parametrize(
    ("path", "body", "type"),
    [
        ("/v1/chat/completions", chat_body(), ChatCompletion),
        ("/v1/chat/completions", chat_body(n=2, max_tokens=1, **LOGPROBS), ChatCompletion),
        ("/v1/images/generations", PAINTING, ImagesResponse),
        ("/v1/images/generations", PAINTING | {"response_format": "url", "output_format": "webp"}, ImagesResponse),
        ("/v1/embeddings", {"model": EMBED, "input": ["a", "b"]}, CreateEmbeddingResponse),
    ],
)
async def test_a_whole_answer_is_valid(path: str, body: JsonObject, type: type[BaseModel]) -> None:
    type.model_validate_json(await posted(path, json=body))


@pytest.mark.parametrize("fields", [{}, LOGPROBS, {"n": 3}, {"stream_options": {"include_usage": True}}])
async def test_every_chunk_of_a_streamed_chat_is_valid(fields: JsonObject) -> None:
    events = sse_events(await posted("/v1/chat/completions", json=chat_body("a b", stream=True, **fields)))
    assert len(events) > 2
    for event in events:
        ChatCompletionChunk.model_validate(event)


async def test_every_event_of_streamed_images_is_valid() -> None:
    painted = sse_events(await posted("/v1/images/generations", json=PAINTING | STREAMED))
    form = PAINTING | {"stream": "true", "partial_images": "1"}
    edited = sse_events(await posted("/v1/images/edits", data=form, files={"image": ("a.png", png(), "image/png")}))
    assert {event["type"] for event in painted + edited} == set(EVENTS)
    for event in painted + edited:
        EVENTS[event["type"]].model_validate(event)


async def test_every_model_is_valid() -> None:
    async with client_for(FakeService()) as client:
        listed = (await client.get("/v1/models")).json()["data"]
    assert [Model.model_validate(entry).owned_by for entry in listed] == ["triptych"] * 3
