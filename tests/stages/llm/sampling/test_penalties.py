"""Bias and penalties: OpenAI's formula, transformers' own repetition penalty, and each row's to that row alone."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.llm.messages import Sampling
from stages.llm.sampling.penalties import Penalties, apply_penalties

pytestmark = pytest.mark.models

SIZE = 200


def penalties(prompt: list[int] | None = None, **settings: Any) -> Penalties:
    found = Penalties.of(Sampling(max_tokens=1, **settings), prompt or [])
    assert found is not None
    return found


def logits() -> torch.Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(0)) * 3


def changed(by: Penalties) -> torch.Tensor:
    found = logits()[None]
    apply_penalties(found, [by])
    return found[0]


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


KINDS: list[dict[str, Any]] = [
    {"logit_bias": {8: -1.0, 199: 100.0, 0: 0.5}},
    {"frequency_penalty": 0.3, "presence_penalty": -0.1},
    {"repetition_penalty": 1.1},
    {"frequency_penalty": 0.3, "presence_penalty": 0.1, "repetition_penalty": 0.7, "logit_bias": {3: -1.0}},
]
rows_of_any_kind = st.lists(
    st.none() | st.tuples(st.sampled_from(KINDS), st.lists(st.integers(0, SIZE - 1), max_size=100), st.booleans()), max_size=6
)


@given(rows_of_any_kind, st.integers(0, 99))
def test_each_row_is_changed_by_its_own_requests_penalties_and_no_other_to_the_bit(rows: list[Any], seed: int) -> None:
    given_rows: list[Penalties | None] = []
    for row in rows:
        given_rows.append(None if row is None else penalties([5, 9, 9], **row[0]))
        for token in [] if row is None else row[1]:
            given_rows[-1].accept(token)  # type: ignore[union-attr]
            if row[2]:
                changed(given_rows[-1])  # type: ignore[arg-type]
    before = torch.randn(len(rows), SIZE, generator=torch.Generator().manual_seed(seed)) * 3
    together = before.clone()
    apply_penalties(together, given_rows)
    for row, one in enumerate(given_rows):
        alone = before[row : row + 1].clone()
        apply_penalties(alone, [one])
        assert torch.equal(together[row], alone[0])
        assert one is not None or torch.equal(alone[0], before[row])


def test_a_bias_alone_leaves_answered_tokens_as_they_are() -> None:
    ours = penalties(logit_bias={3: 1.0})
    for token in range(100):
        ours.accept(token)
    assert not len(ours.penalised)
