"""Structured output end to end, by OpenAI's own client over a real socket: an untrained model answers with what its schema says."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from pipelines.ingress.request.settings import settings_of
from pipelines.one_process import one_process
from pipelines.settings.config_file import parse
from tests.pipelines.ingress.surface import server_for
from tests.stages.llm.tiny_models import save_decoder

pytestmark = [pytest.mark.models, pytest.mark.timeout(600)]

ASKED: list[Any] = [{"role": "user", "content": "Who is it?"}]


class Tag(BaseModel):
    label: Literal["red", "green", "blue"]
    weight: int = Field(ge=0, le=9)


class Person(BaseModel):
    name: str = Field(max_length=8)
    age: int | None = Field(ge=0, le=120)
    tags: list[Tag] = Field(max_length=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture
async def client(folder: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    llm = {"loader": "transformers", "source": {"folder": str(folder)}, "dtype": "float32", "max_context_tokens": 512}
    config = parse({"models": {"m": {"pipeline": "image_text", "llm": llm}}})
    async with one_process(config) as service, server_for(service, settings_of(config)) as address:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            yield client


async def test_parse_gives_objects_of_the_clients_own_type(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.parse(
        model="m", messages=ASKED, response_format=Person, n=4, seed=1, max_tokens=400, temperature=1.0
    )
    ended = [choice for choice in answer.choices if choice.finish_reason == "stop"]
    assert len(ended) >= 3
    assert all(isinstance(choice.message.parsed, Person) for choice in ended)
    assert len({choice.message.content for choice in ended}) > 1


async def test_a_stream_adds_up_to_the_same_object(client: openai.AsyncOpenAI) -> None:
    settings: dict[str, Any] = {"model": "m", "messages": ASKED, "response_format": Person, "seed": 2, "max_tokens": 400}
    whole = await client.chat.completions.parse(**settings)
    async with client.chat.completions.stream(**settings) as stream:
        async for _ in stream:
            pass
        streamed = await stream.get_final_completion()
    assert streamed.choices[0].message.parsed == whole.choices[0].message.parsed
    assert isinstance(whole.choices[0].message.parsed, Person)


async def test_any_object_a_pattern_and_choices(client: openai.AsyncOpenAI) -> None:
    async def said(**asked: Any) -> str:
        answer = await client.chat.completions.create(model="m", messages=ASKED, seed=3, max_tokens=200, **asked)
        return answer.choices[0].message.content or ""

    assert (await said(response_format={"type": "json_object"})).startswith("{")
    assert await said(extra_body={"guided_choice": ["yes", "no"]}) in ("yes", "no")
    assert (await said(extra_body={"structured_outputs": {"regex": "[ab]{3}"}})).strip("ab") == ""
    assert await said(extra_body={"structured_outputs": {"grammar": 'root ::= "x" ("y" | "z")'}}) in ("xy", "xz")


async def test_a_schema_that_cant_be_enforced_is_a_400_by_its_keyword(client: openai.AsyncOpenAI) -> None:
    schema = {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}}
    asked: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="m", messages=ASKED, response_format=asked)
    assert refused.value.param == "response_format.json_schema.schema"
    assert "uniqueItems (at $.properties.tags.uniqueItems)" in str(refused.value)


async def test_the_receipt_and_the_counts_are_as_of_any_answer(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="m",
        messages=ASKED,
        seed=4,
        response_format={"type": "json_object"},
        max_tokens=30,
        logprobs=True,
        top_logprobs=2,
    )
    assert answer.usage is not None
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert "".join(one.token for one in logprobs.content or ()).startswith("{")
    assert json.loads(answer.model_dump_json())["triptych"]["stages"]
