"""An answer whose replica ends in the middle goes on elsewhere: whoever reads it sees nothing but the answer, wherever it was cut."""

import itertools
import json
import math
import pickle
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import ray.exceptions

from pipelines.answering import KEPT_S, Answering
from pipelines.cluster.attempts import MAX_LOST, MAX_LOST_BETWEEN
from pipelines.cluster.serve_client import ServeStageClient
from pipelines.context import RequestContext
from stages.contract.errors import InvalidRequest, QueueFull, ReplicaLost
from stages.contract.item import Item, StreamEnd
from stages.contract.news import NO_HINTS
from stages.host.host import StageHost
from stages.host.packed_item import PackedItem, unpacked
from stages.llm.llm import Llm
from stages.llm.messages import (
    Constraint,
    ConstraintKind,
    Generate,
    GenerationEnd,
    PromptLogprobs,
    Sampling,
    SoFar,
    TokenDelta,
    TokenLogprob,
)
from stages.llm.settings import LlmSettings
from tests.stages.llm.library.oracle import load
from tests.stages.llm.tiny_models import save_decoder

pytestmark = pytest.mark.models

LLM = "m.llm"
PROMPT = tuple(range(10, 40))
END = 2  # <|im_end|>
NO_END = {END: -100.0}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@dataclass
class Heard:
    """All that was heard of one answer."""

    text: str = ""
    num_tokens: int = 0
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    of_prompt: list[TokenLogprob] = field(default_factory=list)
    ends: list[GenerationEnd] = field(default_factory=list)

    def add(self, events: Sequence[object]) -> None:
        for event in events:
            match event:
                case TokenDelta():
                    self.text += event.text
                    self.num_tokens += event.num_tokens
                    self.token_ids += event.token_ids
                    self.logprobs += event.logprobs
                case PromptLogprobs():
                    self.of_prompt += event.logprobs
                case GenerationEnd():
                    self.ends.append(event)


class Replicas:
    """Of one stage, one after another, as `ServeStageClient` calls them: each tells so many steps and dies, all but the last. `asked`: what
    came to each."""

    app_name = "app"

    def __init__(self, hosts: Sequence[StageHost], told: Iterable[int | Exception] = ()) -> None:
        self._hosts, self._told = itertools.cycle(hosts), iter(told)
        self.asked: list[Item[Any]] = []
        self.num_ended = 0

    def options(self, **options: object) -> "Replicas":
        return self

    def remote(self, stage: str, item: Item[Any] | PackedItem, to: object = None) -> "Replicas":
        self.asked.append(unpacked(pickle.loads(pickle.dumps(item)), ()))  # noqa: S301
        return self

    def cancel(self) -> None: ...

    async def __aiter__(self) -> AsyncIterator[Sequence[object]]:
        limit = next(self._told, None)
        if isinstance(limit, Exception):
            raise limit
        events: list[object] = []
        async with aclosing(next(self._hosts).stream(LLM, self.asked[-1])) as batches:
            async for batch in batches:
                events += batch
                if limit is not None and len(steps(events)) > limit:
                    break
        for step in steps(events)[:limit]:
            yield pickle.loads(pickle.dumps(step))  # noqa: S301
            if isinstance(step[-1], StreamEnd):
                return
        self.num_ended += 1
        raise ray.exceptions.RayActorError(f"replica {len(self.asked)}")


def steps(events: Sequence[object]) -> list[list[object]]:
    """What came of one step is told together."""
    found: list[list[object]] = []
    for event in events:
        if isinstance(event, GenerationEnd) or (found and isinstance(found[-1][-1], PromptLogprobs) and not is_scored(event)):
            found[-1].append(event)
        else:
            found.append([event])
    return found


def is_scored(event: object) -> bool:
    return isinstance(event, PromptLogprobs | StreamEnd)


async def answered(replicas: Replicas, work: Generate, context: RequestContext | None = None, index: int = 0) -> Heard:
    handles: Any = {"d": replicas}
    answering = Answering(LLM, ServeStageClient(handles, {LLM: ["d"]}), max_context_tokens=320, chunk_tokens=16)
    heard = Heard()
    async with aclosing(answering.choice(index, work, NO_HINTS, context or RequestContext())) as choices:
        async for choice in choices:
            heard.add(choice.events)
    return heard


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def stages(folder: Path) -> tuple[Llm, Llm]:
    settings = LlmSettings(num_slots=2, max_context_tokens=320, prefill_chunk_tokens=16, page_tokens=8)
    return load(folder, settings), load(folder, settings)


@pytest.fixture
async def hosts(stages: tuple[Llm, Llm]) -> AsyncIterator[list[StageHost]]:
    both = [StageHost(replica=f"r{number}") for number in (1, 2)]
    for host, stage in zip(both, stages, strict=True):
        host.add(LLM, stage)
    yield both
    for host in both:
        await host.close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.cluster.attempts.FIRST_PAUSE_S", 0.0)


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of replicas may end under an answer, as long as it goes on."""
    monkeypatch.setattr("pipelines.cluster.attempts.MAX_LOST_BETWEEN", 1000)


def asked(max_tokens: int = 14, **settings: Any) -> Generate:
    usual: dict[str, Any] = {"temperature": 1.5, "seed": 5, "logit_bias": NO_END}
    return Generate(PROMPT, Sampling(max_tokens, **(usual | settings)))


def held(constraint: Constraint, **settings: Any) -> Generate:
    usual: dict[str, Any] = {"temperature": 1.0, "logit_bias": {}}
    return asked(60, constraint=constraint, **(usual | settings))


SCHEMA = Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(PERSON))
ASKED: dict[str, Generate] = {
    "greedy": asked(temperature=0.0),
    "seeded": asked(),
    "penalties": asked(temperature=0.0, frequency_penalty=0.5, presence_penalty=0.3, repetition_penalty=1.3),
    "log probabilities": asked(logprobs=2),
    "an end that may not come yet": asked(min_tokens=6, logit_bias={END: 100.0}, logprobs=0),
    "the prompt's own log probabilities": asked(8, prompt_logprobs=1),
    "a schema": held(SCHEMA, seed=3),
    "a schema behind a mark": held(replace(SCHEMA, after=(15, 16, 17), may_end_before=False), logit_bias={16: 9.0}),
}


@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize("name", ASKED)
async def test_wherever_it_is_cut_the_answer_is_that_of_one_replica(hosts: list[StageHost], name: str) -> None:
    await cut_everywhere(hosts, ASKED[name])


@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize("shows", [False, True])
async def test_a_stop_string_that_spans_the_cut_ends_the_answer(hosts: list[StageHost], shows: bool) -> None:
    whole = await answered(Replicas(hosts), asked(24, temperature=0.0))
    stop = whole.text[9:13]
    assert stop not in whole.text[:12]
    # its beginning is held back for a while, again and again
    stops = (stop, *(f"{one}\x00" for one in set(whole.text[:9])))
    heard = await cut_everywhere(
        hosts, asked(24, temperature=0.0, stop=stops, logprobs=1, include_stop_str_in_output=shows), least=4
    )
    assert heard.text == whole.text[: 13 if shows else 9]
    assert heard.ends[0].reason == "stop"


async def cut_everywhere(hosts: list[StageHost], work: Generate, least: int = 6) -> Heard:
    """The answer, once, and then with its replica dead after every step, and after every few."""
    whole = await answered(Replicas(hosts), work)
    assert len(whole.ends) == 1
    assert len(whole.token_ids) >= least
    for each in (1, 3):
        replicas, context = Replicas(hosts, itertools.repeat(each)), RequestContext()
        same(await answered(replicas, work, context), whole)
        assert replicas.num_ended >= len(whole.token_ids) // each
        assert [receipt.ended_early for receipt in context.receipts].count(True) == replicas.num_ended
        assert [item.continues for item in replicas.asked] == [number > 0 for number in range(len(replicas.asked))]
    return whole


def same(heard: Heard, whole: Heard) -> None:
    assert heard.text == whole.text
    assert heard.num_tokens == whole.num_tokens
    assert heard.token_ids == whole.token_ids
    for found, wanted in ((heard.logprobs, whole.logprobs), (heard.of_prompt, whole.of_prompt)):
        assert [one.token_id for one in found] == [one.token_id for one in wanted]
        assert [one.logprob for one in found] == pytest.approx([one.logprob for one in wanted], abs=1e-3)
    (end,), (wanted_end,) = heard.ends, whole.ends
    assert (end.reason, end.completion_tokens) == (wanted_end.reason, wanted_end.completion_tokens)
    assert (end.stop_token is None) == (wanted_end.stop_token is None)
    assert end.cached_tokens <= len(PROMPT)


async def test_choices_go_on_each_by_itself(hosts: list[StageHost]) -> None:
    whole = [await answered(Replicas(hosts), asked(), index=index) for index in range(3)]
    assert len({one.text for one in whole}) == 3
    context = RequestContext()
    for index, one in enumerate(whole):
        same(await answered(Replicas(hosts, (4 + index,)), asked(), context, index=index), one)


async def test_an_answer_goes_on_while_it_comes_further_and_not_for_ever(hosts: list[StageHost]) -> None:
    replicas = Replicas(hosts, [2] * (MAX_LOST_BETWEEN - 1))
    same(await answered(replicas, asked()), await answered(Replicas(hosts), asked()))
    replicas = Replicas(hosts, itertools.repeat(2))
    with pytest.raises(ReplicaLost):
        await answered(replicas, asked())
    assert len(replicas.asked) == MAX_LOST_BETWEEN


async def test_an_answer_that_ends_the_next_replica_before_it_comes_further_is_given_up(hosts: list[StageHost]) -> None:
    """Whatever it had shown."""
    replicas = Replicas(hosts, [3, 0, 3])
    with pytest.raises(ReplicaLost):
        await answered(replicas, asked())
    assert len(replicas.asked) == MAX_LOST


async def test_what_was_begun_waits_for_room(hosts: list[StageHost]) -> None:
    """A new request is refused where every line is full."""
    full = ray.exceptions.RayTaskError("stream", "traceback", QueueFull("no room", retry_after_s=2.0))
    same(await answered(Replicas(hosts, [3, full, full]), asked()), await answered(Replicas(hosts), asked()))
    with pytest.raises(QueueFull):
        await answered(Replicas(hosts, [full]), asked())


def test_what_goes_on_is_checked_like_what_begins(stages: tuple[Llm, Llm]) -> None:
    llm, _ = stages
    llm.check(replace(asked(3), so_far=SoFar((5, 6))))
    for so_far in ((5, 6, 7), (5, 400), (-1,)):
        with pytest.raises(InvalidRequest, match="so_far"):
            llm.check(replace(asked(3), so_far=SoFar(so_far)))


async def test_an_answer_that_nobody_reads_along_is_kept_meanwhile(hosts: list[StageHost]) -> None:
    replicas = Replicas(hosts)
    await answered(replicas, asked(), RequestContext(pace_s=math.inf))
    assert [(item.pace_s, item.kept_s) for item in replicas.asked] == [(math.inf, KEPT_S)]
