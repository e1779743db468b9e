"""A chat from messages to the LLM's task: how long its answer may be."""

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.context import RequestContext
from pipelines.image_text import ImageTextPipeline
from pipelines.jobs import AskedSampling, ChatChoiceEnd, ChatJob, Message, SamplingDefaults, TextPart
from pipelines.prompts.prompt import PromptBuilder
from stages.checkpoints.checkpoint import Source, resolve
from stages.contract.errors import InvalidRequest
from stages.contract.item import Item, Reply, StageReceipt, StreamEnd
from stages.llm.messages import GenerationEnd, TokenDelta
from tests.stages.llm.tiny_models import save_decoder

pytestmark = pytest.mark.models

CONTEXT = 200


class Talker:
    """A `StageClient` whose LLM says one word, and notes what it was asked."""

    def __init__(self) -> None:
        self.items: list[Item[Any]] = []

    async def call(self, stage: str, item: Item[Any]) -> Reply:
        raise AssertionError(f"no picture was given, and {stage} was called")

    async def stream(
        self, stage: str, item: Item[Any], *, restartable: bool = False
    ) -> AsyncGenerator[Sequence[object], None]:
        self.items.append(item)
        yield [TokenDelta("yes", 1), GenerationEnd("stop", 1), StreamEnd(StageReceipt(stage))]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptBuilder:
    folder: Path = save_decoder("llama", tmp_path_factory.mktemp("llama"))
    return PromptBuilder.load(resolve(Source(folder=str(folder))))


async def asked(prompts: PromptBuilder, max_tokens: int, default_max_tokens: int, n: int = 1) -> Talker:
    client = Talker()
    pipeline = ImageTextPipeline(
        "chat",
        client,
        prompts,
        vision_fingerprint=None,
        max_pixels=1,
        max_context_tokens=CONTEXT,
        defaults=SamplingDefaults(max_tokens=default_max_tokens),
    )
    job = ChatJob((Message("user", (TextPart("hi"),)),), AskedSampling(max_tokens=max_tokens), n)
    events = [event async for event in pipeline.chat(job, RequestContext(id="mine-1"))]
    assert isinstance(events[-1], ChatChoiceEnd)
    return client


async def test_an_answer_without_a_bound_gets_the_servers_default(prompts: PromptBuilder) -> None:
    item = (await asked(prompts, 0, 50)).items[0]
    assert item.payload.sampling.max_tokens == 50


async def test_the_default_stays_within_what_the_prompt_leaves_of_the_context(prompts: PromptBuilder) -> None:
    item = (await asked(prompts, 0, 10_000)).items[0]
    assert item.payload.sampling.max_tokens == CONTEXT - len(item.payload.token_ids)


async def test_a_bound_that_is_given_goes_before_the_default(prompts: PromptBuilder) -> None:
    assert (await asked(prompts, 60, 50)).items[0].payload.sampling.max_tokens == 60
    with pytest.raises(InvalidRequest, match=r"models\.\*\.llm\.max_context_tokens"):
        await asked(prompts, CONTEXT, 50)


async def test_items_begin_with_the_requests_id(prompts: PromptBuilder) -> None:
    items = (await asked(prompts, 5, 50, n=2)).items
    assert {item.id for item in items} == {"mine-1:choice:0", "mine-1:choice:1"}
