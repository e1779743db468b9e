"""Drives an LLM stage as an engine would, one step at a time, with requests that arrive at given steps.

A request is prepared when it arrives, with the pages that go on where the stage's own end, as far as there are any, and the features
that the stage says it needs then, and gets others only when the stage finds them missing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from stages.contract.recipe import NO_INPUTS, Inputs, InputsMissing, Recipe
from stages.contract.result import Result
from stages.llm.llm import Llm
from stages.llm.messages import Generate, GenerationEnd, PromptLogprobs, TokenDelta, TokenLogprob
from stages.llm.prompts.prompt import PreparedPrompt
from stages.llm.row import LlmRow, SuspendedAnswer
from stages.vision.messages import EncodeImage, VisionFeatures

NOTHING: Mapping[str, Result] = {}


def recipe(name: str) -> Recipe[VisionFeatures]:
    return Recipe(name, "model.vision_encoder", EncodeImage(b"", 1))


@dataclass(slots=True)
class Answer:
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    of_prompt: list[TokenLogprob] = field(default_factory=list)
    end: GenerationEnd | None = None
    error: Exception | None = None
    steps: list[int] = field(default_factory=list)  # at which step each token came
    needed: list[str] = field(default_factory=list)  # the features it was given at first
    missed: list[str] = field(default_factory=list)  # those that it turned out to lack
    brought: list[str] = field(default_factory=list)  # the pages it was given


@dataclass(slots=True)
class _Request:
    work: Generate
    answer: Answer
    results: Mapping[str, Result]
    pages: Mapping[str, Result]
    inputs: Inputs = NO_INPUTS
    prepared: PreparedPrompt | None = None
    suspended: SuspendedAnswer | None = None

    def prepare(self, llm: Llm) -> None:
        if self.prepared is None:
            llm.check(self.work)
            run = llm.page_run(self.work)
            self.answer.brought = list(takewhile(self.pages.__contains__, run.names[run.num_resident :]))
            self.inputs = Inputs({name: self.pages[name] for name in self.answer.brought})
            needed = llm.needs(self.work, self.inputs)
            self.answer.needed = [one.name for one in needed]
            self._supply(llm, needed)

    def start(self, llm: Llm) -> LlmRow:
        assert self.prepared is not None
        free = llm._table.num_free
        try:
            return self._begun(llm, self.prepared)
        except InputsMissing as missing:
            assert llm._table.num_free == free
            self.answer.missed += [one.name for one in missing.recipes]
            self._supply(llm, missing.recipes)
            return self._begun(llm, self.prepared)

    def _supply(self, llm: Llm, recipes: Sequence[Recipe[Any]]) -> None:
        self.inputs = self.inputs.with_more(Inputs({one.name: self.results[one.name] for one in recipes}))
        self.prepared = llm.prepare(self.work, self.inputs)

    def _begun(self, llm: Llm, prepared: PreparedPrompt) -> LlmRow:
        return llm.start(self.work, prepared) if self.suspended is None else llm.resume(self.work, prepared, self.suspended)


def exported(llm: Llm) -> dict[str, Result]:
    """All pages that the stage hands over when nothing else is to be done, by name."""
    found: dict[str, Result] = {}
    while llm.has_exports(idle=True):
        found |= {made.name: made.value for made in llm.export(idle=True)}
    return found


def drive(
    llm: Llm,
    arrivals: Sequence[tuple[int, Generate]],
    cancel: Callable[[int, int], bool] = lambda step, index: False,
    preempt: Callable[[int, int], bool] = lambda step, index: False,
    results: Mapping[str, Result] = NOTHING,
    pages: Mapping[str, Result] = NOTHING,
) -> list[Answer]:
    """Runs (arrival step, request) to their ends. `cancel(step, index)`: whether the client leaves before that step;
    `preempt(step, index)`: whether the row makes way before that step, and goes on after everyone who waits. `results`: features
    by name; `pages`: by name."""
    requests = [_Request(work, Answer(), results, pages) for _, work in arrivals]
    waiting = sorted(range(len(arrivals)), key=lambda index: (arrivals[index][0], index))
    running: dict[int, LlmRow] = {}
    for step in range(10_000):
        if not waiting and not running:
            return [request.answer for request in requests]
        for index in waiting:
            if arrivals[index][0] <= step:
                requests[index].prepare(llm)
        while waiting and arrivals[waiting[0]][0] <= step and llm.can_start(arrivals[waiting[0]][1]):
            index = waiting.pop(0)
            running[index] = requests[index].start(llm)
        for index in [index for index in running if preempt(step, index)]:
            requests[index].suspended = llm.suspend(running[index])
            llm.finish(running.pop(index))
            waiting.append(index)
        for index in [index for index in running if cancel(step, index)]:
            llm.finish(running.pop(index))
        _step(llm, step, running, [request.answer for request in requests])
    raise RuntimeError("the requests never end")


def _step(llm: Llm, step: int, running: dict[int, LlmRow], answers: list[Answer]) -> None:
    members = list(running)
    for index, stepped in zip(members, llm.step([running[index] for index in members]) if members else [], strict=True):
        answer, row = answers[index], running[index]
        for event in stepped.events:
            if isinstance(event, TokenDelta):
                answer.text += event.text
                answer.logprobs += event.logprobs
                answer.steps.append(step)
            elif isinstance(event, PromptLogprobs):
                answer.of_prompt += event.logprobs
            elif isinstance(event, GenerationEnd):
                answer.end = event
        answer.error = stepped.error
        if stepped.done or stepped.error is not None:
            answer.tokens = list(row.answer)
            llm.finish(running.pop(index))
