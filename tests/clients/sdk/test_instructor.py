"""instructor: every mode that fits an endpoint of OpenAI's kind gives an object of the class that was asked for. Not its parallel calls and
its JSON within Markdown: there only the model's wit decides whether there is one."""

import json
from collections.abc import Iterator
from typing import Any

import instructor
import openai
import pytest
from instructor.core import IncompleteOutputException, InstructorRetryException
from pydantic import BaseModel, Field

from tests.clients.asked import KEY, SEE, Shape, base_url, data_url, png

ASKED: list[Any] = [{"role": "user", "content": "Which shape is red?"}]
HELD = [instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA, instructor.Mode.RESPONSES_TOOLS]


class Colour(BaseModel):
    """Without a choice of words, half of which would be none of them."""

    name: str = Field(max_length=8)
    red: int = Field(ge=0, le=9)


@pytest.fixture
def plain() -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url(), api_key=KEY, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("mode", HELD, ids=lambda mode: mode.name.lower())
def test_an_object_of_the_class(plain: openai.OpenAI, mode: instructor.Mode) -> None:
    client = instructor.from_openai(plain, mode=mode)
    made = client.chat.completions.create(model=SEE, messages=ASKED, response_model=Shape, max_retries=0)
    assert isinstance(made, Shape)


def test_the_object_as_it_grows(plain: openai.OpenAI) -> None:
    client = instructor.from_openai(plain, mode=instructor.Mode.TOOLS)
    grown = list(client.chat.completions.create_partial(model=SEE, messages=ASKED, response_model=Colour, max_retries=0))
    Colour.model_validate(grown[-1].model_dump())


def test_json_mode_is_json_also_where_the_model_finds_another_form(plain: openai.OpenAI) -> None:
    """Of the form only the prompt tells, which a model of little wit may miss."""
    client = instructor.from_openai(plain, mode=instructor.Mode.JSON)
    try:
        made, raw = client.chat.completions.create_with_completion(
            model=SEE, messages=ASKED, response_model=Shape, max_retries=0, max_tokens=80
        )
        assert isinstance(made, Shape)
    except (IncompleteOutputException, InstructorRetryException) as error:
        raw = error.last_completion
    (choice,) = raw.choices
    assert choice.finish_reason == "length" or isinstance(json.loads(choice.message.content), dict)


def test_a_picture_among_the_messages(plain: openai.OpenAI) -> None:
    client = instructor.from_openai(plain, mode=instructor.Mode.TOOLS)
    picture = instructor.Image.from_base64(data_url(png()))
    made = client.chat.completions.create(
        model=SEE, messages=[{"role": "user", "content": ["What is it?", picture]}], response_model=Shape, max_retries=0
    )
    assert isinstance(made, Shape)
