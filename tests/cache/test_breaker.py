"""The circuit breaker, with a clock turned by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.breaker import Breaker


def opened(now: float = 0) -> Breaker:
    breaker = Breaker(max_failures=2, pause_s=5)
    breaker.failed(now)
    breaker.failed(now)
    return breaker


def test_it_allows_everybody_until_failures_come_in_a_row() -> None:
    breaker = Breaker(max_failures=2, pause_s=5)
    assert not breaker.failed(0)
    assert not breaker.succeeded()
    assert not breaker.failed(0)
    assert breaker.allows(0)
    assert not breaker.is_open(0)


def test_it_opens_at_the_last_failure_allowed_and_says_so_once() -> None:
    breaker = Breaker(max_failures=2, pause_s=5)
    assert [breaker.failed(0), breaker.failed(0), breaker.failed(0)] == [False, True, False]
    assert breaker.is_open(0)
    assert not breaker.allows(4.9)


def test_after_the_pause_one_may_try_and_the_others_wait() -> None:
    breaker = opened()
    assert not breaker.is_open(5)
    assert [breaker.allows(5), breaker.allows(5), breaker.allows(9.9)] == [True, False, False]


def test_asking_whether_it_is_open_takes_nobodys_turn() -> None:
    breaker = opened()
    assert not breaker.is_open(5)
    assert not breaker.is_open(5)
    assert breaker.allows(5)


def test_a_success_closes_it_and_says_so() -> None:
    breaker = opened()
    breaker.allows(5)
    assert breaker.succeeded()
    assert [breaker.allows(5), breaker.allows(5)] == [True, True]
    assert not breaker.failed(5)


def test_a_failed_trial_opens_it_for_another_pause() -> None:
    breaker = opened()
    breaker.allows(5)
    assert not breaker.failed(6)
    assert not breaker.allows(10.9)
    assert breaker.allows(11)


def test_a_trial_that_is_never_reported_does_not_keep_it_open_for_ever() -> None:
    breaker = opened()
    assert breaker.allows(5)
    assert breaker.allows(10)


@given(st.lists(st.tuples(st.sampled_from(["allows", "failed", "succeeded"]), st.floats(0, 3)), max_size=60))
def test_it_never_allows_two_trials_within_a_pause_while_open(events: list[tuple[str, float]]) -> None:
    breaker, now, last_trial = Breaker(max_failures=2, pause_s=5), 0.0, float("-inf")
    failures = 0
    for event, passed in events:
        now += passed
        if event == "succeeded":
            breaker.succeeded()
            failures = 0
        elif event == "failed":
            breaker.failed(now)
            failures += 1
            last_trial = now if failures >= 2 else last_trial
        elif breaker.allows(now) and failures >= 2:
            assert now - last_trial >= 5 - 1e-9
            last_trial = now


@pytest.mark.parametrize(("failures", "pause_s"), [(0, 1), (1, 0), (1, -1)])
def test_settings_that_make_no_sense_are_refused(failures: int, pause_s: float) -> None:
    with pytest.raises(ValueError, match="max_failures"):
        Breaker(failures, pause_s)


def test_it_says_whether_it_is_closed_and_how_many_failures_there_were_in_a_row() -> None:
    breaker = Breaker(2, 5)
    breaker.failed(0)
    assert (breaker.is_closed, breaker.num_failures) == (True, 1)
    breaker.failed(0)
    assert (breaker.is_closed, breaker.num_failures) == (False, 2)
    assert breaker.allows(5)
    assert not breaker.is_closed  # until it is known what becomes of the trial
    breaker.succeeded()
    assert (breaker.is_closed, breaker.num_failures) == (True, 0)
