"""A checkpoint's generation_config.json is what a request that says nothing gets; what a request says, it gets."""

import json
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.context import RequestContext
from pipelines.image_text import ImageTextPipeline
from pipelines.jobs import AskedSampling, ChatJob, Message, SamplingDefaults, TextPart
from pipelines.prompts.prompt import PromptBuilder
from pipelines.rules.sampling_defaults import completed, sampling_defaults
from stages.checkpoints.checkpoint import Checkpoint, Source, resolve
from stages.contract.errors import ConfigurationError
from stages.contract.item import Item, Reply
from stages.llm.messages import GenerationEnd, Sampling
from tests.stages.llm.tiny_models import save_decoder


def checkpoint(folder: Path, content: str | None) -> Checkpoint:
    if content is not None:
        (folder / "generation_config.json").write_text(content)
    return resolve(Source(folder=str(folder)))


def defaults_of(
    folder: Path, content: str | None, default_max_tokens: int = 512, limit: int | None = None
) -> SamplingDefaults:
    return sampling_defaults(checkpoint(folder, content), default_max_tokens, limit)


def test_a_checkpoint_without_the_file_has_openais_defaults(tmp_path: Path) -> None:
    assert defaults_of(tmp_path, None) == SamplingDefaults()


def test_the_fields_that_vllm_takes_are_taken_and_others_are_not(tmp_path: Path) -> None:
    content: dict[str, object] = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.05}
    content |= {"max_new_tokens": 2048, "do_sample": True, "eos_token_id": [1, 2], "typical_p": 0.5}
    found = defaults_of(tmp_path, json.dumps(content))
    assert found == SamplingDefaults(0.7, 0.8, 20, 0.05, 1.05, 2048)


@pytest.mark.parametrize(
    ("bound", "default", "limit", "found"),
    [(None, 512, None, 512), (2048, 512, None, 2048), (2048, 512, 100, 100), (None, 512, 600, 512)],
)
def test_the_checkpoints_bound_goes_before_the_servers_default_and_neither_over_its_limit(
    tmp_path: Path, bound: int | None, default: int, limit: int | None, found: int
) -> None:
    content = None if bound is None else json.dumps({"max_new_tokens": bound})
    assert defaults_of(tmp_path, content, default, limit).max_tokens == found


@pytest.mark.parametrize("content", [{}, {"do_sample": False}, {"temperature": None, "top_p": 1.0, "top_k": -1}])
def test_what_says_nothing_leaves_openais_defaults(tmp_path: Path, content: dict[str, Any]) -> None:
    assert defaults_of(tmp_path, json.dumps(content)) == SamplingDefaults()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"temperature": 3}', "generation_config.json: temperature: .*2"),
        ('{"top_p": "much"}', "generation_config.json: top_p"),
        ('{"max_new_tokens": 0}', "generation_config.json: max_new_tokens"),
        ("[", "generation_config.json: the file"),
    ],
)
def test_values_that_cannot_be_served_are_refused_at_start(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        defaults_of(tmp_path, content)


CHECKPOINTS = SamplingDefaults(0.6, 0.9, 20, 0.1, 1.2, 100)


def test_a_request_that_says_nothing_gets_the_checkpoints_word() -> None:
    expected = Sampling(100, temperature=0.6, top_p=0.9, top_k=20, min_p=0.1, repetition_penalty=1.2)
    assert completed(AskedSampling(), CHECKPOINTS, room=500) == expected


def test_a_request_that_says_one_gets_one() -> None:
    found = completed(AskedSampling(temperature=1.0, top_p=1.0), CHECKPOINTS, room=500)
    assert (found.temperature, found.top_p) == (1.0, 1.0)


def test_a_request_that_says_greedy_gets_greedy() -> None:
    assert completed(AskedSampling(temperature=0.0), CHECKPOINTS, room=500).temperature == 0.0


@pytest.mark.parametrize(("asked", "room", "bound"), [(0, 500, 100), (30, 500, 30), (400, 500, 400), (0, 50, 50)])
def test_an_answer_is_bounded_by_the_request_or_else_by_the_checkpoint_and_the_context(
    asked: int, room: int, bound: int
) -> None:
    assert completed(AskedSampling(max_tokens=asked), CHECKPOINTS, room).max_tokens == bound


class RememberingClient:
    """A stage that says nothing, and remembers what it was sent."""

    def __init__(self) -> None:
        self.sent: list[Item[Any]] = []

    async def call(self, stage: str, item: Item[Any]) -> Reply:
        raise NotImplementedError

    async def stream(
        self, stage: str, item: Item[Any], *, restartable: bool = False
    ) -> AsyncGenerator[Sequence[object], None]:
        self.sent.append(item)
        yield [GenerationEnd("stop", 1)]


@pytest.mark.models
async def test_the_stage_is_sent_what_the_checkpoint_says(tmp_path: Path) -> None:
    client = RememberingClient()
    pipeline = ImageTextPipeline(
        "model",
        client,
        PromptBuilder.load(resolve(Source(folder=str(save_decoder("llama", tmp_path))))),
        vision_fingerprint=None,
        max_pixels=100,
        max_context_tokens=64,
        defaults=SamplingDefaults(temperature=0.3, top_k=5),
    )
    job = ChatJob((Message("user", (TextPart("Hi"),)),), AskedSampling(top_p=0.5, seed=7), n=2)
    context = RequestContext(id="1", tenant="", salt="", deadline=time.time() + 60)
    async for _ in pipeline.chat(job, context):
        pass
    sent = [item.payload.sampling for item in client.sent]
    assert [(one.temperature, one.top_p, one.top_k, one.seed) for one in sent] == [(0.3, 0.5, 5, 7), (0.3, 0.5, 5, 8)]
