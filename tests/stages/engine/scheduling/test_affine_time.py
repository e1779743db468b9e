"""How long something is expected to take, learned from what was seen."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.engine.scheduling.affine_time import AffineTime

AMOUNTS = st.floats(0.001, 1e9)
SECONDS = st.floats(1e-6, 1e4)


def test_nothing_is_known_before_anything_was_seen() -> None:
    time = AffineTime(32)
    assert time.seconds_for(1) is None
    assert time.more(1) is None


def test_one_sighting_tells_in_proportion() -> None:
    time = AffineTime(32)
    time.observe(10, 5.0)
    assert (time.seconds_for(20), time.more(20)) == (10.0, 10.0)


@given(st.floats(0.0, 10.0), st.floats(0.001, 1.0), st.lists(st.floats(1, 1000), min_size=8, max_size=30))
def test_a_line_is_found(base: float, slope: float, amounts: list[float]) -> None:
    amounts = [*amounts, 1, 1000]
    time = AffineTime(32)
    for amount in amounts:
        time.observe(amount, base + slope * amount)
    assert time.seconds_for(500) == pytest.approx(base + slope * 500, rel=1e-3, abs=1e-6)
    assert time.more(500) == pytest.approx(slope * 500, rel=1e-3, abs=1e-6)


def test_steps_that_take_as_long_whatever_is_in_them_are_not_supposed_to_take_less_for_less() -> None:
    time = AffineTime(100)
    for amount, seconds in [(1.0, 0.051), (4.0, 0.050)] * 20:  # but for chance
        time.observe(amount, seconds)
    assert time.seconds_for(1.0) == pytest.approx(0.05, rel=0.02)
    assert time.seconds_for(8.0) == pytest.approx(0.05, rel=0.02)
    times = time.step_times()
    assert times is not None
    assert times.seconds(1.0) == pytest.approx(0.05, rel=0.02)


def test_a_few_prompts_among_many_answers_tell_what_prompts_take() -> None:
    """Steps of 1 to 16 rows that answer take 50 ms and more; 256 tokens of a prompt 3 ms each beside that."""
    noise, time = random.Random(1), AffineTime(120.0)
    for step in range(2000):
        rows = noise.randint(1, 16)
        prompt = 256 if step % 200 == 0 else 0
        seconds = 0.05 + 0.004 * rows + 0.003 * prompt
        time.observe(rows + prompt, seconds * noise.uniform(0.8, 1.2), age=seconds)
    assert time.more(64) == pytest.approx(0.003 * 64, rel=0.25)


def test_what_has_changed_is_learned() -> None:
    time = AffineTime(8)
    for _ in range(20):
        time.observe(100, 1.0)
    for _ in range(80):
        time.observe(100, 10.0)
    assert time.seconds_for(100) == pytest.approx(10.0, rel=0.01)


@given(st.lists(st.tuples(AMOUNTS, SECONDS), min_size=1, max_size=50), AMOUNTS, AMOUNTS)
def test_no_guess_is_negative_and_more_never_takes_less(seen: list[tuple[float, float]], less: float, more: float) -> None:
    time = AffineTime(16)
    for amount, seconds in seen:
        time.observe(amount, seconds)
    less, more = sorted([less, more])
    low, high, extra = time.seconds_for(less), time.seconds_for(more), time.more(more)
    assert low is not None
    assert high is not None
    assert extra is not None
    assert 0 <= low <= high
    assert 0 <= extra <= high * (1 + 1e-9)


def test_an_average_follows_a_change_of_pace() -> None:
    time = AffineTime(10)
    assert time.on_average(1) is None
    for _ in range(100):
        time.observe(10, 1.0, age=1.0)
    assert time.on_average(10) == pytest.approx(1)
    for _ in range(100):
        time.observe(1, 1.0, age=1.0)
    assert time.on_average(1) == pytest.approx(1, rel=0.02)


def test_what_did_nothing_took_its_time_all_the_same() -> None:
    time = AffineTime(1e9)
    for _ in range(9):
        time.observe(0, 1.0)
    assert time.on_average(1) is None
    time.observe(1, 1.0)
    assert time.on_average(1) == pytest.approx(10)


@given(st.lists(st.tuples(AMOUNTS, SECONDS), min_size=1, max_size=50), AMOUNTS)
def test_the_line_is_a_steps_times(seen: list[tuple[float, float]], amount: float) -> None:
    time = AffineTime(16)
    assert time.step_times() is None
    for one, seconds in seen:
        time.observe(one, seconds)
    found, expected = time.step_times(), time.seconds_for(amount)
    assert found is not None
    assert expected is not None
    assert found.seconds(amount) == pytest.approx(expected, rel=1e-5, abs=1e-5 * max(seconds for _, seconds in seen))
