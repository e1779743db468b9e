"""What is refused before it is started, and when it may come again."""

import random

from hypothesis import given
from hypothesis import strategies as st

from pipelines.routing.admission import Admission, Forecast, admit, forecast
from pipelines.routing.candidate import Wanted
from pipelines.routing.ranking import rank
from stages.contract.work import Work
from tests.pipelines.routing.fleet import candidate

SECONDS = st.floats(0.001, 1000.0)


@given(SECONDS, SECONDS, SECONDS, st.sampled_from([-1, 0, 1]))
def test_what_ends_in_time_by_the_upper_quantile_is_admitted(
    alone_s: float, waits_s: float, left_s: float, priority: int
) -> None:
    expected = Forecast(alone_s + waits_s, 1.2 * (alone_s + waits_s), alone_s)
    refusal = admit(expected, left_s, priority=priority)
    allowed_s = left_s * Admission().background_part if priority > 0 else left_s
    if expected.quantile_s <= allowed_s:
        assert refusal is None
    elif refusal is not None:
        assert 0 < refusal.retry_after_s <= expected.quantile_s


def test_the_mean_in_time_is_not_enough() -> None:
    assert admit(Forecast(9.0, 11.0, 1.0), 10.0) is not None


def test_a_refusal_says_after_which_time_it_could_be_admitted() -> None:
    refusal = admit(Forecast(28.0, 30.0, 2.0), 10.0)
    assert refusal is not None
    assert refusal.retry_after_s == 20.0
    assert admit(Forecast(8.0, 10.0, 2.0), 10.0) is None  # as it is by then


def test_what_finds_devices_idle_is_tried_though_it_seems_to_take_too_long() -> None:
    """What is known of its time may be wrong, and nothing else would correct it."""
    assert admit(Forecast(30.0, 33.0, 30.0), 10.0) is None


def test_what_is_not_urgent_is_refused_while_there_is_still_time_for_what_is() -> None:
    busy = Forecast(6.0, 7.0, 1.0)
    assert admit(busy, 10.0, priority=1) is not None
    assert admit(busy, 10.0, priority=0) is None
    assert admit(busy, 10.0, priority=-1) is None


def test_all_stages_that_a_request_visits_count_together() -> None:
    visits = [rank(Wanted(Work(10.0, 10.0)), [candidate("r", 20)], 0.0, random.random) for _ in range(3)]
    expected = forecast([visit for visit in visits if visit is not None])
    one = forecast([visit for visit in visits[:1] if visit is not None])
    assert expected.finish_s == 3 * one.finish_s
    assert expected.quantile_s > expected.finish_s > expected.alone_s
