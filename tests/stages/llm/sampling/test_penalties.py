"""Bias and penalties: OpenAI's formula, transformers' own repetition penalty, and the same after a pause."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.llm.messages import Sampling
from stages.llm.sampling.penalties import Penalties

pytestmark = pytest.mark.models

SIZE = 200


def penalties(prompt: list[int] | None = None, **settings: Any) -> Penalties:
    found = Penalties.of(Sampling(max_tokens=1, **settings), prompt or [])
    assert found is not None
    return found


def logits() -> torch.Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(0)) * 3


def changed(by: Penalties) -> torch.Tensor:
    found = logits()
    by.apply(found)
    return found


def test_a_request_that_changes_nothing_has_none() -> None:
    assert Penalties.of(Sampling(max_tokens=1, temperature=0.5, top_p=0.5), [1, 2]) is None


@given(st.lists(st.integers(0, SIZE - 1), max_size=150), st.floats(-2, 2), st.floats(-2, 2), st.booleans())
def test_penalties_are_as_openai_documents_them(answer: list[int], frequency: float, presence: float, first: bool) -> None:
    ours = penalties(frequency_penalty=frequency, presence_penalty=presence, logit_bias={3: 1.5})
    if first:
        changed(ours)
    for token in answer:
        ours.accept(token)
    expected = logits()
    expected[3] += 1.5
    for token, count in Counter(answer).items():
        expected[token] -= count * frequency + presence
    torch.testing.assert_close(changed(ours), expected)


def test_the_repetition_penalty_is_that_of_transformers_over_prompt_and_answer() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    prompt, answer = [5, 9, 9, 30], [9, 77, 5, 77, 120]
    ours = penalties(prompt, repetition_penalty=1.3)
    for place, token in enumerate(answer):
        seen = torch.tensor([prompt + answer[:place]])
        expected = RepetitionPenaltyLogitsProcessor(1.3)(seen, logits()[None])[0]
        torch.testing.assert_close(changed(ours), expected)
        ours.accept(token)


def test_bias_comes_before_the_repetition_penalty_and_the_others_after() -> None:
    ours = penalties([4], repetition_penalty=2.0, presence_penalty=1.0, logit_bias={4: 10.0})
    before = float(logits()[4])
    assert float(changed(ours)[4]) == pytest.approx((before + 10) / 2)
    ours.accept(4)
    assert float(changed(ours)[4]) == pytest.approx((before + 10) / 2 - 1)


def test_what_left_the_device_comes_back_as_it_was() -> None:
    settings = {"frequency_penalty": 0.3, "presence_penalty": 0.1, "repetition_penalty": 1.1, "logit_bias": {8: -1.0}}
    stayed, left = penalties([1, 2, 3], **settings), penalties([1, 2, 3], **settings)
    for token in [7, 3, 7, 9] * 40 + list(range(100, 180)):
        for one in (stayed, left):
            one.accept(token)
            changed(one)
        left.leave_device()
        assert torch.equal(changed(stayed), changed(left))
