"""How long answers will be, by how long answers were."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.llm.answers.lengths import AnswerLengths


def seen(*lengths: int, bound: int = 10**6) -> AnswerLengths:
    known = AnswerLengths()
    for length in lengths:
        known.saw(min(length, bound), was_cut=length >= bound)
    return known


def test_before_anything_was_seen_an_answer_is_a_part_of_its_bound() -> None:
    known = AnswerLengths()
    assert 10 < known.expected(64) < 64
    assert known.expected(64) < known.expected(512) < 512
    assert known.expected(1) == 1


@pytest.mark.parametrize("mean", [8, 60, 400])
def test_the_mean_is_learned(mean: int) -> None:
    noise = random.Random(1)
    known = seen(*(max(1, round(noise.gauss(mean, mean / 10))) for _ in range(600)))
    assert known.expected(100_000) == pytest.approx(mean, rel=0.25)


def test_an_answer_that_its_bound_cut_would_have_been_longer() -> None:
    """Half of the answers were allowed 32 tokens only; they are no reason to think that others are short."""
    noise, known = random.Random(1), AnswerLengths()
    for number in range(1000):
        length, bound = max(1, round(noise.gauss(100, 10))), 32 if number % 2 else 4096
        known.saw(min(length, bound), was_cut=length > bound)
    assert known.expected(4096) == pytest.approx(100, rel=0.2)
    assert known.expected(32) == pytest.approx(32, rel=0.1)


def test_who_has_come_far_goes_further() -> None:
    known = seen(*[20, 400] * 300)
    assert known.expected(4096) < 300
    assert known.expected(4096, so_far=100) == pytest.approx(400, rel=0.25)
    assert known.expected(4096, so_far=1000) > 1000


def test_what_has_changed_is_learned() -> None:
    known = seen(*[400] * 500, *[20] * 1500)
    assert known.expected(4096) == pytest.approx(20, rel=0.3)


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.booleans()), max_size=40),
    st.integers(1, 10_000),
    st.integers(0, 10_000),
)
def test_a_guess_is_within_what_is_possible(ended: list[tuple[int, bool]], bound: int, so_far: int) -> None:
    known = AnswerLengths()
    for length, was_cut in ended:
        known.saw(length, was_cut=was_cut)
    assert so_far + 1 <= known.expected(bound, so_far) <= max(bound, so_far + 1)
