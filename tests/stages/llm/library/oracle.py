"""What the library's own `generate` answers to each request alone, and whether Triptych answers the same.

Decides what is asked (prompts of random lengths, some that begin alike, at random steps; then the same of a stage that begins with pages
that another computed) and what counts as the same: every token. Knows no architecture.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.contract.errors import ConfigurationError
from stages.llm.llm import Llm
from stages.llm.messages import Generate, Sampling
from stages.llm.settings import LlmSettings
from tests.stages.llm.driving import Answer, drive, exported
from tests.stages.llm.library.tiny_architectures import save_architecture

SETTINGS = (LlmSettings(1, 128, 7), LlmSettings(4, 128, 16))
"""Alone and beside others, in small chunks and in large ones."""

PAGED = LlmSettings(3, 128, 16, page_tokens=8)


class Verdict(StrEnum):
    EQUAL = "equal"
    REFUSED = "refused"
    NOT_MADE = "not made"  # there is nothing to compare with
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Outcome:
    verdict: Verdict
    reason: str = ""


def load(folder: Path, settings: LlmSettings) -> Llm:
    return Llm.load(resolve(Source(folder=str(folder))), LoadOptions(), settings)


def load_whole(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def greedy(model: Any, prompt: Sequence[int], max_tokens: int | None) -> tuple[list[int], torch.Tensor]:
    """The library's own answer, and the log probabilities [tokens, vocabulary] of every step."""
    made = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=max_tokens,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return made.sequences[0, len(prompt) :].tolist(), torch.stack(made.logits)[:, 0].log_softmax(-1)


def requests(seed: int, count: int, longest: int, most: int = 24) -> list[tuple[int, Generate]]:
    """(arrival step, request) of random lengths; every third prompt begins as an earlier one."""
    source = random.Random(seed)
    found: list[tuple[int, Generate]] = []
    for index in range(count):
        tokens = tuple(source.randrange(7, 400) for _ in range(source.randrange(1, longest)))
        if index % 3 == 2:
            earlier = found[source.randrange(index)][1].token_ids
            tokens = (*earlier[: source.randrange(len(earlier) + 1)], *tokens)[: longest - 1]
        sampling = Sampling(max_tokens=source.randrange(1, most), temperature=0.0, logprobs=3)
        found.append((source.randrange(20), Generate(tokens, sampling)))
    return found


def judged(kind: str, folder: Path, **more: Any) -> Outcome:
    """Of a tiny checkpoint of that `model_type`, which is saved in `folder`."""
    try:
        save_architecture(kind, folder, **more)
    except Exception as error:  # any of a hundred architectures, each in its own way
        return Outcome(Verdict.NOT_MADE, _first_line(error))
    return outcome(folder)


def outcome(folder: Path, settings: Sequence[LlmSettings] = SETTINGS, longest: int = 80) -> Outcome:
    """Of the checkpoint in `folder`."""
    try:
        model = load_whole(folder)
        _check_context_matters(model)
    except Exception as error:  # as above
        return Outcome(Verdict.NOT_MADE, _first_line(error))
    arrivals = requests(seed=0, count=6, longest=longest, most=14)
    try:
        expected = [greedy(model, work.token_ids, work.sampling.max_tokens or 1)[0] for _, work in arrivals]
    except Exception as error:
        return Outcome(Verdict.NOT_MADE, f"its own generate fails: {_first_line(error)}")
    runs: list[tuple[LlmSettings, Callable[[Llm], list[Answer]]]] = [
        (setting, lambda llm: drive(llm, arrivals)) for setting in settings
    ]
    for setting, run in [*runs, (PAGED, lambda llm: elsewhere(llm, load(folder, PAGED), arrivals))]:
        try:
            llm = load(folder, setting)
        except ConfigurationError as error:
            return Outcome(Verdict.REFUSED, _first_line(error).replace(str(folder), "the checkpoint"))
        try:
            answers = run(llm)
        except Exception as error:
            return Outcome(Verdict.WRONG, f"fails while it is served: {_first_line(error)}")
        for tokens, answer in zip(expected, answers, strict=True):
            if answer.tokens != tokens:
                return Outcome(Verdict.WRONG, f"{tokens} became {answer.tokens} with {setting}")
    return Outcome(Verdict.EQUAL)


def elsewhere(llm: Llm, other: Llm, arrivals: Sequence[tuple[int, Generate]], **more: Any) -> list[Answer]:
    """What a fresh stage answers that is given the pages that another computed for the same. Raises ValueError where it had no use for
    them."""
    drive(llm, arrivals, **more)
    answers = drive(other, arrivals, pages=exported(llm), **more)
    for (_, work), answer in zip(arrivals, answers, strict=True):
        given = min(len(work.token_ids) - 1, len(answer.brought) * PAGED.page_tokens)
        if answer.end is not None and answer.end.cached_tokens < given:
            raise ValueError(f"{answer.end.cached_tokens} tokens were not computed, though {given} were given")
    if not any(answer.brought for answer in answers):
        raise ValueError("no pages were given")
    return answers


def _check_context_matters(model: Any) -> None:
    """Raises ValueError for a model whose answers would be equal whatever is done to them."""
    prompts = [[*range(40, 52)], [*range(40, 48), 90, *range(49, 52)], [*range(40, 48), 49, 48, 50, 51]]
    logprobs = torch.stack([greedy(model, prompt, 1)[1][0] for prompt in prompts])
    if not (logprobs[1:] - logprobs[0]).std(-1).gt(0.01 * logprobs[0].std()).all():
        raise ValueError("the context does not matter to its random weights")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{lines[0]}" if isinstance(error, ConfigurationError) else f"{type(error).__name__}: {lines[0]}"
