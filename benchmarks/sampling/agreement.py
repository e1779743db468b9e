"""Seeded answers alone, and beside neighbours that come and go: how many tokens are the same, and how near the others were to a tie.

A batch of another size computes other last bits of the logits. A draw changes with them only where its two best scores lie within
that noise of each other, so every first difference is reported with that gap. Knows one stage and its model.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.llm.rows import started
from benchmarks.reporting.report import Report
from stages.device.openmp import on_passing_thread
from stages.llm.llm import Llm
from stages.llm.messages import Generate, Sampling
from stages.llm.sampling.candidates import BLOCK, keep
from stages.llm.sampling.noise import exponential, row_keys

NEIGHBOURS = 7
PROMPT = 24
SETTINGS: dict[str, dict[str, float]] = {"temperature 1": {}, "temperature 1, top_p 0.9": {"top_p": 0.9}}


@dataclass(frozen=True, slots=True)
class Difference:
    """Where an answer first differs, and by how much (in nats of its noisy score) the token had won when it was alone."""

    place: int
    gap: float


def agreement(report: Report, llm: Llm, folder: Path, dtype: str, *, num_answers: int, num_tokens: int) -> None:
    """Adds a row for each setting."""
    model = on_passing_thread(lambda: _model(folder, dtype))
    for name, settings in SETTINGS.items():
        equal, differences = 0, []
        for seed in range(num_answers):
            work = _work(seed, num_tokens, settings)
            alone, beside = _answer(llm, work, 0, seed), _answer(llm, work, NEIGHBOURS, seed)
            equal += sum(ours == theirs for ours, theirs in zip(alone, beside, strict=True))
            place = next((place for place in range(num_tokens) if alone[place] != beside[place]), None)
            if place is not None:
                logits = _logits(model, [*work.token_ids, *alone[:place]])
                differences.append(Difference(place, gap(logits, work.sampling, place)))
        compared = num_tokens * (num_answers - len(differences)) + sum(difference.place + 1 for difference in differences)
        report.add(
            what="agreement",
            dtype=dtype,
            mix=name,
            answers=num_answers,
            equal_answers=num_answers - len(differences),
            tokens=num_answers * num_tokens,
            equal_tokens=equal,
            changed_draws=round(len(differences) / compared, 4),
            largest_gap=round(max((difference.gap for difference in differences), default=0.0), 5),
        )


def _answer(llm: Llm, work: Generate, neighbours: int, seed: int) -> list[int]:
    """The tokens of `work`, beside so many others at most; each stays for a few steps, and another comes."""
    source = random.Random(seed)
    row = started(llm, work)
    others: list[Any] = []
    for _ in range(10 * work.sampling.max_tokens):
        if neighbours and source.random() < 0.4:
            while others and (len(others) == neighbours or source.random() < 0.3):
                llm.finish(others.pop(source.randrange(len(others))))
            others.append(started(llm, _work(source.randrange(1000, 10**6), 400, {})))
        stepped = llm.step([row, *others])[0]
        if stepped.done or stepped.error is not None:
            break
    for one in (row, *others):
        llm.finish(one)
    return list(row.answer)


def gap(logits: Tensor, sampling: Sampling, position: int) -> float:
    """By how much the winner of a draw from `logits` [vocabulary] won, in nats: between blocks or within one, whatever was
    closer."""
    masses = torch.zeros(1, -(-len(logits) // BLOCK) * BLOCK)
    masses[0, : len(logits)] = ((logits - logits.max()) / sampling.temperature).exp()
    keep(masses, [sampling])
    keys = row_keys(torch.tensor([sampling.seed]), torch.tensor([position]))
    summed = masses.view(1, -1, BLOCK).sum(dim=-1).double()
    between = summed / exponential(keys, (-1 - torch.arange(summed.shape[1]))[None])
    tokens = between.argmax(dim=-1, keepdim=True) * BLOCK + torch.arange(BLOCK)
    within = masses.gather(1, tokens).double() / exponential(keys, tokens)
    return min(_lead(between[0]), _lead(within[0]))


def _lead(scores: Tensor) -> float:
    first, second = scores.topk(2).values.tolist()
    return math.log(first / second) if second > 0 else math.inf


def _model(folder: Path, dtype: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


def _logits(model: Any, tokens: Sequence[int]) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(torch.tensor([tokens])).logits[0, -1].float()
    return found


def _work(seed: int, num_tokens: int, settings: dict[str, float]) -> Generate:
    source = random.Random(seed)
    tokens = tuple(source.randrange(100, 40_000) for _ in range(source.randrange(PROMPT // 2, PROMPT)))
    return Generate(tokens, Sampling(num_tokens, seed=seed, **settings), salt=str(random.random()))  # type: ignore[arg-type]
