"""Choosing tokens: each rule of OpenAI's sampling parameters, and independence of what shares the batch."""

import math
from collections import Counter
from typing import Any

import pytest
import torch

from stages.llm.sampling import NUCLEUS_CANDIDATES, Chooser, choose
from stages.stage import Sampling

pytestmark = pytest.mark.models


def sampling(**settings: object) -> Chooser:
    return Chooser(Sampling(max_tokens=10, **settings))  # type: ignore[arg-type]


def logits_of(probabilities: list[float]) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


def frequencies(logits: torch.Tensor, count: int = 4000, **settings: object) -> dict[int, float]:
    chooser = sampling(seed=7, **settings)
    found = Counter(choose(logits, [chooser])[0].token for _ in range(count))
    return {token: number / count for token, number in found.items()}


def test_temperature_zero_takes_the_likeliest() -> None:
    assert choose(logits_of([0.2, 0.5, 0.3]), [sampling(temperature=0.0)])[0].token == 1


def test_tokens_come_as_often_as_they_are_likely() -> None:
    found = frequencies(logits_of([0.2, 0.5, 0.3]))
    assert found == pytest.approx({0: 0.2, 1: 0.5, 2: 0.3}, abs=0.03)


def test_temperature_sharpens_by_its_own_formula() -> None:
    weights = [p**2 for p in (0.2, 0.5, 0.3)]
    found = frequencies(logits_of([0.2, 0.5, 0.3]), temperature=0.5)
    assert found == pytest.approx({token: weight / sum(weights) for token, weight in enumerate(weights)}, abs=0.03)


def test_a_temperature_close_to_zero_is_greedy_and_finite() -> None:
    logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(0)) * 50
    assert choose(logits, [sampling(temperature=1e-6)])[0].token == int(logits.argmax())


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    found = frequencies(logits_of([0.1, 0.5, 0.4]), top_p=0.6)
    assert found == pytest.approx({1: 5 / 9, 2: 4 / 9}, abs=0.03)


def test_a_tiny_top_p_is_greedy() -> None:
    assert set(frequencies(logits_of([0.3, 0.3001, 0.3999]), count=200, top_p=1e-9)) == {2}


def test_top_p_over_a_flat_vocabulary_looks_beyond_the_first_candidates() -> None:
    vocabulary = NUCLEUS_CANDIDATES * 4
    chooser = sampling(seed=1, top_p=0.9)
    found = {choose(torch.zeros(1, vocabulary), [chooser])[0].token for _ in range(2000)}
    assert len(found) > NUCLEUS_CANDIDATES * 2


def test_a_row_chooses_the_same_alone_and_among_others() -> None:
    generator = torch.Generator().manual_seed(3)
    steps = [torch.randn(6, 500, generator=generator) * 2 for _ in range(30)]
    settings: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"seed": 5},
        {"seed": 5, "top_p": 0.5},
        {"seed": 9, "temperature": 0.7, "frequency_penalty": 1.0},
        {"seed": 2, "presence_penalty": 1.5},
        {"seed": 2, "logit_bias": {7: 4.0}, "logprobs": 2},
    ]
    together = [sampling(**one) for one in settings]
    crowd = [[choice.token for choice in choose(step, together)] for step in steps]
    for row, one in enumerate(settings):
        alone = sampling(**one)
        assert [choose(step[row : row + 1], [alone])[0].token for step in steps] == [line[row] for line in crowd]


def test_equal_seeds_repeat_and_others_differ() -> None:
    logits = torch.zeros(1, 1000)
    runs = [
        [choose(logits, [chooser])[0].token for _ in range(20)]
        for chooser in (sampling(seed=1), sampling(seed=1), sampling(seed=2))
    ]
    assert runs[0] == runs[1] != runs[2]


def test_logit_bias_forbids_and_forces() -> None:
    logits = logits_of([0.2, 0.5, 0.3])
    assert choose(logits, [sampling(temperature=0.0, logit_bias={1: -100})])[0].token == 2
    assert choose(logits, [sampling(temperature=0.0, logit_bias={0: 100})])[0].token == 0


def test_penalties_grow_with_what_was_generated() -> None:
    logits = torch.tensor([[1.0, 0.5, 0.0]])
    chooser = sampling(temperature=0.0, frequency_penalty=0.3)
    assert [choose(logits, [chooser])[0].token for _ in range(4)] == [0, 0, 1, 0]
    chooser = sampling(temperature=0.0, presence_penalty=2.0)
    assert [choose(logits, [chooser])[0].token for _ in range(4)] == [0, 1, 2, 0]


def test_half_precision_logits_take_penalties_and_bias() -> None:
    logits = torch.zeros(1, 10, dtype=torch.bfloat16)
    assert choose(logits, [sampling(temperature=0.0, logit_bias={3: 1})])[0].token == 3


def test_logprobs_are_of_the_models_own_distribution() -> None:
    logits = logits_of([0.2, 0.5, 0.3])
    chooser = sampling(temperature=0.0, logprobs=2, logit_bias={0: 100})
    choice = choose(logits, [chooser])[0]
    assert choice.token == 0
    assert choice.logprob == pytest.approx(math.log(0.2), abs=1e-6)
    assert [token for token, _ in choice.top] == [1, 2]
    assert [logprob for _, logprob in choice.top] == pytest.approx([math.log(0.5), math.log(0.3)], abs=1e-6)


def test_logprobs_without_alternatives_tell_of_the_chosen_token_only() -> None:
    choice = choose(logits_of([0.2, 0.8]), [sampling(temperature=0.0, logprobs=0)])[0]
    assert choice.logprob == pytest.approx(math.log(0.8), abs=1e-6)
    assert choice.top == ()


def test_a_row_that_is_no_numbers_fails_alone() -> None:
    logits = torch.zeros(2, 5)
    logits[0, 3] = float("nan")
    first, second = choose(logits, [sampling(seed=1), sampling(temperature=0.0)])
    assert first.failed
    assert not second.failed
