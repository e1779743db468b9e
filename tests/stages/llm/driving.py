"""Drives an LLM stage as an engine would, one step at a time, with requests that arrive at given steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stages.llm.llm import Llm
from stages.llm.messages import Generate, GenerationEnd, TokenDelta, TokenLogprob
from stages.llm.row import LlmRow, SuspendedAnswer


@dataclass(slots=True)
class Answer:
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    end: GenerationEnd | None = None
    error: Exception | None = None
    steps: list[int] = field(default_factory=list)  # at which step each token came


def drive(
    llm: Llm,
    arrivals: Sequence[tuple[int, Generate]],
    cancel: Callable[[int, int], bool] = lambda step, index: False,
    preempt: Callable[[int, int], bool] = lambda step, index: False,
) -> list[Answer]:
    """Runs (arrival step, request) to their ends. `cancel(step, index)`: whether the client leaves before that step;
    `preempt(step, index)`: whether the row makes way before that step, and goes on after everyone who waits."""
    answers = [Answer() for _ in arrivals]
    waiting = sorted(range(len(arrivals)), key=lambda index: (arrivals[index][0], index))
    running: dict[int, LlmRow] = {}
    suspended: dict[int, SuspendedAnswer] = {}
    for step in range(10_000):
        if not waiting and not running:
            return answers
        while waiting and arrivals[waiting[0]][0] <= step and llm.can_start(arrivals[waiting[0]][1]):
            index = waiting.pop(0)
            llm.check(arrivals[index][1])
            running[index] = _started(llm, arrivals[index][1], suspended.pop(index, None))
        for index in [index for index in running if preempt(step, index)]:
            suspended[index] = llm.suspend(running[index])
            llm.finish(running.pop(index))
            waiting.append(index)
        for index in [index for index in running if cancel(step, index)]:
            llm.finish(running.pop(index))
        _step(llm, step, running, answers)
    raise RuntimeError("the requests never end")


def _started(llm: Llm, work: Generate, suspended: SuspendedAnswer | None) -> LlmRow:
    return llm.start(work) if suspended is None else llm.resume(work, suspended)


def _step(llm: Llm, step: int, running: dict[int, LlmRow], answers: list[Answer]) -> None:
    members = list(running)
    for index, stepped in zip(members, llm.step([running[index] for index in members]) if members else [], strict=True):
        answer, row = answers[index], running[index]
        for event in stepped.events:
            if isinstance(event, TokenDelta):
                answer.text += event.text
                answer.logprobs += event.logprobs
                answer.steps.append(step)
            elif isinstance(event, GenerationEnd):
                answer.end = event
        answer.error = stepped.error
        if stepped.done or stepped.error is not None:
            answer.tokens = row.occupant.tokens[row.num_prompt :]
            llm.finish(running.pop(index))
