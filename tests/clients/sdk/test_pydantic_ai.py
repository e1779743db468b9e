"""pydantic-ai: agents with a tool, with an answer of a class in each of its ways, and with pictures, by both of OpenAI's APIs."""

from typing import Any

import pytest
from pydantic_ai import (
    Agent,
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelSettings,
    NativeOutput,
    ToolCallPart,
    ToolDefinition,
    ToolOutput,
    ToolReturnPart,
    UsageLimits,
)
from pydantic_ai.direct import model_request
from pydantic_ai.embeddings import Embedder
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.asked import CLIP, KEY, SEE, SHORT, Shape, base_url, png

MODELS = [OpenAIChatModel, OpenAIResponsesModel]


def count(kind: str) -> int:
    """How many shapes of a kind there are."""
    return len(kind)


def provider() -> OpenAIProvider:
    return OpenAIProvider(base_url=base_url(), api_key=KEY)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("output", [ToolOutput(Shape), NativeOutput(Shape)], ids=["tool", "native"])
async def test_an_answer_of_a_class(model: Any, output: Any) -> None:
    agent: Agent[None, Shape] = Agent(model(SEE, provider=provider()), output_type=output, retries=0)
    answer = await agent.run("Which shape is red?")
    assert isinstance(answer.output, Shape)
    assert answer.usage.output_tokens > 0


@pytest.mark.parametrize("model", MODELS)
async def test_a_tool_that_must_be_called_is_and_its_result_goes_back(model: Any) -> None:
    """One call at a time, as the agent's own loop makes them, which a model of little wit might never leave."""
    asked: list[ModelMessage] = [ModelRequest.user_text_prompt("Draw two circles.")]
    tools = ModelRequestParameters(
        function_tools=[ToolDefinition(name="draw", parameters_json_schema=Shape.model_json_schema())]
    )
    served = model(SEE, provider=provider())
    answer = await model_request(
        served, asked, model_settings={"tool_choice": "required", "parallel_tool_calls": False}, model_request_parameters=tools
    )
    calls = [part for part in answer.parts if isinstance(part, ToolCallPart)]
    assert [Shape.model_validate(call.args_as_dict()) for call in calls]
    told = ModelRequest([ToolReturnPart(call.tool_name, "drawn", tool_call_id=call.tool_call_id) for call in calls])
    settings: ModelSettings = {"tool_choice": "none", "max_tokens": SHORT}
    after = await model_request(served, [*asked, answer, told], model_settings=settings, model_request_parameters=tools)
    assert after.parts


@pytest.mark.parametrize("model", MODELS)
async def test_an_agent_with_a_tool_runs_to_its_end_with_pictures_among_what_it_is_told(model: Any) -> None:
    agent: Agent[None, str] = Agent(model(SEE, provider=provider()), instructions="Be brief.", tools=[count])
    asked = ["How many shapes?", BinaryContent(png(), media_type="image/png")]
    async with agent.run_stream(asked, model_settings={"max_tokens": SHORT}, usage_limits=UsageLimits(request_limit=3)) as run:
        assert await run.get_output()
    assert run.usage.output_tokens > 0


async def test_texts_are_embedded() -> None:
    made = await Embedder(OpenAIEmbeddingModel(CLIP, provider=provider())).embed_documents(["a circle", "a square"])
    assert len(made.embeddings) == 2
