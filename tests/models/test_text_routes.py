"""The text routes end to end, by OpenAI's own client over a real socket and a model that the library computes, too."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from pydantic import BaseModel, Field
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipelines.ingress.request.settings import settings_of
from pipelines.one_process import one_process
from pipelines.settings.config_file import parse
from tests.pipelines.ingress.surface import server_for
from tests.stages.llm.tiny_models import save_decoder

pytestmark = [pytest.mark.models, pytest.mark.timeout(600)]

PAIRS = (("a red circle", " to the left of a blue square"), ("the quick brown", " fox jumps"), ("Was ist", " das?"))


class Colour(BaseModel):
    name: str = Field(max_length=8)
    red: int = Field(ge=0, le=255)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder("llama", tmp_path_factory.mktemp("llama"), max_position_embeddings=2048)


@pytest.fixture
async def client(folder: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    llm = {"loader": "transformers", "source": {"folder": str(folder)}, "dtype": "float32", "max_context_tokens": 2048}
    config = parse({"models": {"m": {"pipeline": "image_text", "llm": llm}}})
    async with one_process(config) as service, server_for(service, settings_of(config)) as address:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            yield client


def by_the_library(folder: Path, tokens: list[int], num_context: int) -> tuple[float, bool]:
    """The log-likelihood of what follows the context, and whether it is what greedy decoding says."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logprobs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    told = [
        (float(logprobs[at - 1, tokens[at]]), int(logprobs[at - 1].argmax()) == tokens[at])
        for at in range(num_context, len(tokens))
    ]
    return sum(one for one, _ in told), all(greedy for _, greedy in told)


def as_a_harness_reads(choice: Any, num_context: int) -> tuple[float, bool]:
    """As lm-evaluation-harness does (`local-completions`): the last entry is of the one token that was generated."""
    told, top = choice.logprobs.token_logprobs[num_context:-1], choice.logprobs.top_logprobs[num_context:-1]
    return sum(told), all(one == max(likeliest.values()) for one, likeliest in zip(told, top, strict=True))


@pytest.mark.parametrize("max_tokens", [0, 1])
async def test_log_likelihoods_are_the_librarys(client: openai.AsyncOpenAI, folder: Path, max_tokens: int) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    contexts = [tokenizer.encode(context, add_special_tokens=False) for context, _ in PAIRS]
    prompts = [
        context + tokenizer.encode(rest, add_special_tokens=False) for context, (_, rest) in zip(contexts, PAIRS, strict=True)
    ]
    greedy = await client.completions.create(model="m", prompt=contexts[0], max_tokens=3, temperature=0, logprobs=0)
    assert greedy.choices[0].logprobs is not None
    for _ in range(2):  # the second time all of it is remembered, and must not be spared
        answer = await client.completions.create(
            model="m", prompt=prompts, echo=True, logprobs=1, max_tokens=max_tokens, temperature=0, seed=1
        )
        for choice, prompt, context in zip(answer.choices, prompts, contexts, strict=True):
            assert choice.text.startswith(tokenizer.decode(prompt))
            assert choice.logprobs is not None
            assert choice.logprobs.tokens is not None
            assert len(choice.logprobs.tokens) == len(prompt) + max_tokens
            if max_tokens:
                found, expected = as_a_harness_reads(choice, len(context)), by_the_library(folder, prompt, len(context))
                assert found[0] == pytest.approx(expected[0], abs=1e-3)
                assert found[1] == expected[1]


async def test_a_greedy_continuation_is_told_as_such(client: openai.AsyncOpenAI, folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    context = tokenizer.encode(PAIRS[0][0], add_special_tokens=False)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        made = model.generate(torch.tensor([context]), max_new_tokens=4, min_new_tokens=4, do_sample=False)[0].tolist()
    answer = await client.completions.create(model="m", prompt=made, echo=True, logprobs=1, max_tokens=1, temperature=0)
    assert as_a_harness_reads(answer.choices[0], len(context))[1] is True


async def test_texts_become_tokens_and_come_back(client: openai.AsyncOpenAI, folder: Path) -> None:
    root = str(client.base_url).removesuffix("/v1/")
    async with httpx.AsyncClient(base_url=root, trust_env=False, timeout=60) as plain:
        told = (await plain.post("/tokenize", json={"prompt": PAIRS[0][0], "return_token_strs": True})).json()
        assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
        assert (await plain.post("/detokenize", json={"tokens": told["tokens"]})).json() == {"prompt": PAIRS[0][0]}
        messages = [{"role": "user", "content": "hi"}]
        chat = (await plain.post("/tokenize", json={"messages": messages})).json()
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert chat["tokens"] == expected


async def test_responses_are_created_streamed_and_parsed(client: openai.AsyncOpenAI) -> None:
    answer = await client.responses.create(model="m", input="hi", max_output_tokens=5, temperature=0)
    assert answer.usage is not None
    assert answer.usage.output_tokens <= 5
    async with client.responses.stream(model="m", input="hi", max_output_tokens=5, temperature=0) as stream:
        said = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
    assert said == answer.output_text
    parsed = await client.responses.parse(model="m", input="a colour", text_format=Colour, max_output_tokens=200)
    if parsed.status == "completed":
        assert isinstance(parsed.output_parsed, Colour)


async def test_a_required_function_is_called_with_what_its_schema_says(client: openai.AsyncOpenAI) -> None:
    tool: Any = {"type": "function", "name": "paint", "parameters": Colour.model_json_schema(), "strict": False}
    answer = await client.responses.create(
        model="m", input="paint it", tools=[tool], tool_choice="required", parallel_tool_calls=False, max_output_tokens=300
    )
    calls = [item for item in answer.output if item.type == "function_call"]
    assert answer.status == "incomplete" or calls
    for call in calls if answer.status == "completed" else ():
        Colour.model_validate(json.loads(call.arguments))
