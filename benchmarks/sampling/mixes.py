"""What requests ask for of sampling, and rows that are in the middle of answers to them. Decides the mixes; knows no model."""

from __future__ import annotations

from typing import Any

from stages.llm.messages import Sampling
from stages.llm.sampling.sampling import RowSampler

LONG = 10**6

MIXES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature 1": {},
    "temperature 1, top_p 0.9": {"top_p": 0.9},
    "penalties": {"frequency_penalty": 0.5, "presence_penalty": 0.3},
    "logprobs 20": {"logprobs": 20},
    "logit_bias of 300": {"logit_bias": dict.fromkeys(range(300), 1.0)},
    "top_k 20, top_p 0.8, repetition 1.05": {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05},
    "everything": {
        "temperature": 0.8,
        "top_p": 0.9,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.3,
        "logprobs": 20,
        "logit_bias": dict.fromkeys(range(300), 1.0),
    },
}
MIXED = "a mix of them"


def samplers_of(count: int) -> dict[str, list[RowSampler]]:
    """By mix, of so many rows in the middle of their answers."""
    prompt = list(range(1000, 1200))
    found = {
        name: [RowSampler(Sampling(LONG, seed=row, **mix), prompt) for row in range(count)] for name, mix in MIXES.items()
    }
    every = [*MIXES.values()]
    found[MIXED] = [RowSampler(Sampling(LONG, seed=row, **every[-1 - row % len(every)]), prompt) for row in range(count)]
    for samplers in found.values():
        for sampler in samplers:
            for token in range(200):  # as in the middle of an answer
                sampler.accept(token)
    return found
