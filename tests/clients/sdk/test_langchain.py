"""LangChain's OpenAI package: answers, streams, pictures, structured output in each of its ways, a loop of tool calls, embeddings."""

from typing import Annotated, Any, Literal

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import Field

from tests.clients.asked import CLIP, KEY, SEE, SHORT, Shape, base_url, data_url, png


def chat(**fields: Any) -> ChatOpenAI:
    return ChatOpenAI(model=SEE, base_url=base_url(), api_key=KEY, max_retries=0, temperature=0, **fields)


@tool
def draw(kind: Literal["circle", "square"], count: Annotated[int, Field(ge=0, le=9)]) -> str:
    """Draws so many shapes."""
    return f"{count} x {kind}"


def test_an_answer_and_what_it_cost() -> None:
    answer = chat(max_tokens=SHORT).invoke([SystemMessage("Be brief."), HumanMessage("Name a shape.")])
    assert answer.content
    assert answer.usage_metadata is not None
    assert 0 < answer.usage_metadata["output_tokens"] <= SHORT


def test_a_stream_and_what_it_cost() -> None:
    chunks = list(chat(max_tokens=SHORT, stream_usage=True).stream("Name a shape."))
    assert "".join(str(chunk.content) for chunk in chunks)
    told = [chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata]
    assert 0 < sum(told) <= SHORT


async def test_a_question_about_pictures_in_both_forms_that_messages_have() -> None:
    old = {"type": "image_url", "image_url": {"url": data_url(png())}}
    new = {"type": "image", "base64": data_url(png()).partition(",")[2], "mime_type": "image/png"}
    message = HumanMessage([{"type": "text", "text": "What are these?"}, old, new])
    answer = await chat(max_tokens=SHORT).ainvoke([message])
    assert answer.content


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("strict", [None, True])
def test_structured_output(method: Literal["json_schema", "function_calling"], strict: bool | None) -> None:
    asked = chat().with_structured_output(Shape, method=method, strict=strict)
    assert isinstance(asked.invoke("Which shape is red?"), Shape)


def test_structured_output_by_json_mode_is_json() -> None:
    asked = chat(max_tokens=60).with_structured_output(method="json_mode", schema=None, include_raw=True)
    answer = asked.invoke('Say a shape as JSON, such as {"kind": "circle"}.')
    assert isinstance(answer, dict)
    raw = answer["raw"]
    assert raw.response_metadata["finish_reason"] == "length" or answer["parsing_error"] is None


def test_structured_output_is_streamed() -> None:
    parts = list(chat().with_structured_output(Shape.model_json_schema(), method="json_schema").stream("Which shape is red?"))
    Shape.model_validate(parts[-1])


@pytest.mark.parametrize("choice", ["draw", "any", "required"])
def test_a_tool_that_must_be_called_is_and_the_loop_goes_on(choice: str) -> None:
    asked: list[Any] = [HumanMessage("Draw two circles.")]
    call = chat().bind_tools([draw], tool_choice=choice, parallel_tool_calls=False).invoke(asked)
    assert isinstance(call, AIMessage)
    (made,) = call.tool_calls
    told = draw.invoke(made)
    assert isinstance(told, ToolMessage)
    after = chat(max_tokens=SHORT).bind_tools([draw]).invoke([*asked, call, told])
    assert after.content or after.tool_calls or after.invalid_tool_calls


def test_a_tool_that_may_be_called_and_a_streamed_call() -> None:
    free = chat(max_tokens=SHORT).bind_tools([draw], strict=True).invoke("Draw two circles.")
    assert free.response_metadata["finish_reason"] in ("stop", "length", "tool_calls")
    whole: Any = None
    for chunk in chat().bind_tools([draw], tool_choice="draw").stream("Draw two circles."):
        whole = chunk if whole is None else whole + chunk
    assert [call["name"] for call in whole.tool_calls] == ["draw"]


def test_the_newer_api_answers_and_calls() -> None:
    newer = chat(use_responses_api=True, output_version="responses/v1", max_tokens=SHORT)
    assert newer.invoke("Name a shape.").text
    asked = chat(use_responses_api=True).bind_tools([draw], tool_choice="draw", strict=True)
    assert [call["name"] for call in asked.invoke("Draw one.").tool_calls] == ["draw"]
    assert isinstance(chat(use_responses_api=True).with_structured_output(Shape).invoke("Which shape?"), Shape)


def test_plain_completions() -> None:
    assert OpenAI(model=SEE, base_url=base_url(), api_key=KEY, max_retries=0, max_tokens=SHORT).invoke("A red")


def test_embeddings_of_texts() -> None:
    embeddings = OpenAIEmbeddings(model=CLIP, base_url=base_url(), api_key=KEY, check_embedding_ctx_length=False)
    found = embeddings.embed_documents(["a circle", "a square"])
    assert len(found) == 2
    assert len(found[0]) == len(embeddings.embed_query("a circle"))
