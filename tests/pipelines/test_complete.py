"""Plain texts from prompts to events, over a host with a small stage in place of the model."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from pipelines.client import LocalStageClient
from pipelines.complete import CompletionPipeline
from pipelines.context import RequestContext
from pipelines.jobs import (
    ChoiceEvents,
    CompleteJob,
    CompletionEvent,
    PlainPrompt,
    PromptsRead,
    ReadText,
    TokenizerNote,
)
from pipelines.threads import Threads
from stages.contract.errors import InvalidRequest
from stages.contract.recipe import Inputs
from stages.contract.stage import Stepped
from stages.host.host import StageHost
from stages.llm.messages import (
    Constraint,
    ConstraintKind,
    Generate,
    GenerationEnd,
    PromptLogprobs,
    Sampling,
    TokenDelta,
    TokenLogprob,
)
from tests.pipelines.checked_on import CheckedOn
from tests.pipelines.measured_client import MeasuredClient
from tests.pipelines.stages import FakeLlm, Given, Row

CONTEXT = 60
LLM = "m.llm"


class LetterTexts:
    """One token a letter."""

    note = TokenizerNote(end="!")

    def read(self, prompt: PlainPrompt) -> ReadText:
        ids = tuple(map(ord, prompt.content)) if isinstance(prompt.content, str) else prompt.content
        return ReadText(ids, self.text_of(ids))

    def text_of(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))

    def spelled(self, token_ids: Sequence[int]) -> Sequence[str]:
        return list(self.text_of(token_ids))


class Telling(FakeLlm):
    """Tells of the prompt's tokens, where it is asked to, with its first word. One with a "!" fails."""

    def prepare(self, payload: Generate, inputs: Inputs) -> Given:
        if ord("!") in payload.token_ids:
            raise InvalidRequest("token_ids hold a bad one", param="token_ids")
        return super().prepare(payload, inputs)

    def stepped(self, row: Row[Generate]) -> Stepped:
        stepped = super().stepped(row)
        if row.payload.sampling.prompt_logprobs is None or row.steps > 1:
            return stepped
        told = tuple(TokenLogprob(token, chr(token), b"", -1.0) for token in row.payload.token_ids[1:])
        return Stepped((PromptLogprobs(told), *stepped.events), stepped.done)


class Scene:
    def __init__(self) -> None:
        self.llm, self.host, self.threads = Telling(), StageHost(replica="r1"), Threads.new()
        self.host.add(LLM, self.llm)
        self.client = MeasuredClient(LocalStageClient(self.host))
        self.pipeline = CompletionPipeline(
            "m", self.client, LetterTexts(), threads=self.threads, max_context_tokens=CONTEXT, chunk_tokens=8
        )

    async def complete(self, job: CompleteJob, context: RequestContext | None = None) -> list[CompletionEvent]:
        return [event async for event in self.pipeline.complete(job, context or RequestContext())]

    async def close(self) -> None:
        self.llm.gate.open()
        self.threads.close()
        await self.host.close()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    await scene.close()


def job(*prompts: str | tuple[int, ...], n: int = 1, max_tokens: int = 9, scored: bool = False) -> CompleteJob:
    sampling = Sampling(max_tokens, seed=5, logprobs=0, prompt_logprobs=0 if scored else None)
    return CompleteJob(tuple(PlainPrompt(prompt, f"prompt[{at}]") for at, prompt in enumerate(prompts)), sampling, n)


def texts(events: Sequence[CompletionEvent]) -> dict[int, str]:
    """What each choice said."""
    said: dict[int, str] = {}
    for choice in events:
        if isinstance(choice, ChoiceEvents):
            words = "".join(event.text for event in choice.events if isinstance(event, TokenDelta))
            said[choice.index] = said.get(choice.index, "") + words
    return said


def heard(events: Sequence[CompletionEvent]) -> list[object]:
    return [event for choice in events if isinstance(choice, ChoiceEvents) for event in choice.events]


async def test_every_prompt_has_its_choices_which_differ_by_their_seed(scene: Scene) -> None:
    started, *events = await scene.complete(job("ab", (99,), n=2))
    assert started == PromptsRead((ReadText((97, 98), "ab"), ReadText((99,), "c")))
    assert texts(events) == {0: "0 9 5", 1: "0 9 6", 2: "0 9 5", 3: "0 9 6"}
    assert [item.payload.token_ids for item in scene.client.items] == [(97, 98), (97, 98), (99,), (99,)]


async def test_what_an_answer_must_be_is_never_checked_on_the_event_loop(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked, asked = CheckedOn(monkeypatch), job("ab")
    constraint = Constraint(ConstraintKind.REGEX, "a+")
    await scene.complete(replace(asked, sampling=replace(asked.sampling, constraint=constraint)))
    assert checked.is_off_loop


async def test_the_work_of_all_prompts_is_admitted_at_once(scene: Scene) -> None:
    context = RequestContext(salt="s", tenant="t")
    await scene.complete(job("ab", "c"), context)
    assert [item.payload.salt for item in scene.client.items] == ["s", "s"]
    assert len(context.receipts) == 2


async def test_what_is_told_of_a_prompt_is_handed_on(scene: Scene) -> None:
    events = heard(await scene.complete(job("abc", scored=True)))
    assert [one.text for event in events if isinstance(event, PromptLogprobs) for one in event.logprobs] == ["b", "c"]
    (item,) = scene.client.items
    assert item.hints.chain == ()


async def test_who_asks_for_no_answer_is_told_of_the_prompt_only(scene: Scene) -> None:
    events = heard(await scene.complete(job("abc", max_tokens=0, scored=True)))
    assert [type(event) for event in events] == [PromptLogprobs, GenerationEnd]
    assert events[-1] == GenerationEnd("length", 0)
    (item,) = scene.client.items
    assert item.payload.sampling.max_tokens == 1


async def test_one_bad_prompt_fails_all_and_is_named(scene: Scene) -> None:
    with pytest.raises(InvalidRequest, match=r"token_ids hold a bad one"):
        await scene.complete(job("a", "b!", "c"))
    with pytest.raises(InvalidRequest, match=r"prompt\[1\] has no tokens") as error:
        await scene.complete(job("a", ""))
    assert error.value.param == "prompt[1]"
    with pytest.raises(
        InvalidRequest, match=rf"prompt\[1\]: a prompt of 70 tokens leaves no room .* context of {CONTEXT}"
    ) as error:
        await scene.complete(job("a", "b" * 70))
    assert error.value.param == "prompt[1]"
    with pytest.raises(InvalidRequest, match="at most 2 fit"):
        await scene.complete(job("a" * 58))


async def test_texts_and_tokens_need_no_stage(scene: Scene) -> None:
    read = await scene.pipeline.read(PlainPrompt("ab"))
    assert read.token_ids == (97, 98)
    assert await scene.pipeline.text_of(read.token_ids) == "ab"
    assert await scene.pipeline.spelled(read.token_ids) == ["a", "b"]
    assert scene.pipeline.tokenizer().end == "!"
    assert scene.client.items == []
