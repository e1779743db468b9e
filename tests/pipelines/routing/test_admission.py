"""What is refused before it is started, and when it may come again."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.routing.admission import Admission, Forecast, admit, forecast, lateness
from pipelines.routing.candidate import Wanted
from pipelines.routing.holding import NOTHING_HELD
from pipelines.routing.ranking import rank
from stages.contract.work import Work
from tests.pipelines.routing.fleet import candidate

SECONDS = st.floats(0.001, 1000.0)


def expectation(finish_s: float, quantile_s: float, alone_s: float) -> Forecast:
    return Forecast(finish_s, quantile_s, alone_s, promised_s=(finish_s + quantile_s) / 2)


@given(SECONDS, SECONDS, SECONDS, st.sampled_from([-1, 0, 1]))
def test_what_ends_in_time_by_the_upper_quantile_is_admitted(
    alone_s: float, waits_s: float, left_s: float, priority: int
) -> None:
    expected = expectation(alone_s + waits_s, 1.2 * (alone_s + waits_s), alone_s)
    refusal = admit(expected, left_s, priority=priority)
    allowed_s = left_s * Admission().background_part if priority > 0 else left_s
    if expected.quantile_s <= allowed_s:
        assert refusal is None
    elif refusal is not None:
        assert 0 < refusal.retry_after_s <= expected.quantile_s


def test_the_mean_in_time_is_not_enough() -> None:
    assert admit(expectation(9.0, 11.0, 1.0), 10.0) is not None


def test_a_refusal_says_after_which_time_it_could_be_admitted() -> None:
    refusal = admit(expectation(28.0, 30.0, 2.0), 10.0)
    assert refusal is not None
    assert refusal.retry_after_s == 20.0
    assert admit(expectation(8.0, 10.0, 2.0), 10.0) is None  # as it is by then


def test_what_finds_devices_idle_is_tried_though_it_seems_to_take_too_long() -> None:
    """What is known of its time may be wrong, and nothing else would correct it."""
    assert admit(expectation(30.0, 33.0, 30.0), 10.0) is None


def test_in_a_crowd_that_does_not_thin_out_a_long_item_is_counted_on_to_have_company_to_its_end() -> None:
    """Many short ones are there, and more come as they end; the margin knows of short ones only."""
    fleet = [candidate("r", 8, each=Work(2.0, 2.0))]
    found = rank(Wanted(Work(50.0, 50.0)), fleet, NOTHING_HELD, 0.0, random.random)
    assert found is not None
    assert found.crowded_s > 1.3 * found.finish_s
    assert forecast([found]).quantile_s == found.crowded_s
    alone = rank(Wanted(Work(50.0, 50.0)), [candidate("r")], NOTHING_HELD, 0.0, random.random)
    assert alone is not None
    assert alone.crowded_s == alone.finish_s


def test_what_items_take_beside_the_device_counts_and_is_not_multiplied_by_the_margin_of_lines() -> None:
    told = candidate("r", 20)
    assert told.news is not None
    assert told.news.speed is not None
    speeds = [replace(told.news.speed, margin=2.0, beside_s=beside_s) for beside_s in (0.0, 3.0)]
    fleets = [replace(told, news=replace(told.news, speed=speed)) for speed in speeds]
    ranked = [rank(Wanted(Work(10.0, 10.0)), [one], NOTHING_HELD, 0.0, random.random) for one in fleets]
    without, beside = (forecast([one]) for one in ranked if one is not None)
    assert beside.finish_s == pytest.approx(without.finish_s + 3.0)
    assert beside.quantile_s == pytest.approx(without.quantile_s + 3.0)
    assert beside.alone_s == pytest.approx(without.alone_s + 3.0)


def test_what_is_not_urgent_is_refused_while_there_is_still_time_for_what_is() -> None:
    busy = expectation(6.0, 7.0, 1.0)
    assert admit(busy, 10.0, priority=1) is not None
    assert admit(busy, 10.0, priority=0) is None
    assert admit(busy, 10.0, priority=-1) is None


def test_all_stages_that_a_request_visits_count_together() -> None:
    visits = [rank(Wanted(Work(10.0, 10.0)), [candidate("r", 20)], NOTHING_HELD, 0.0, random.random) for _ in range(3)]
    expected = forecast([visit for visit in visits if visit is not None])
    one = forecast([visit for visit in visits[:1] if visit is not None])
    assert expected.finish_s == 3 * one.finish_s
    assert expected.quantile_s > expected.finish_s > expected.alone_s


def test_who_comes_when_it_was_told_to_need_not_be_as_sure_as_a_newcomer() -> None:
    told = candidate("r", 20)
    assert told.news is not None
    assert told.news.speed is not None
    unsure = replace(told, news=replace(told.news, speed=replace(told.news.speed, margin=2.0)))
    ranked = rank(Wanted(Work(10.0, 10.0)), [unsure], NOTHING_HELD, 0.0, random.random)
    assert ranked is not None
    expected = forecast([ranked])
    assert 1.1 * expected.finish_s <= expected.promised_s < expected.quantile_s
    late = lateness(expected, (expected.promised_s + expected.quantile_s) / 2)
    assert late.promised_late_s < 0 < late.late_s
    assert [Admission(quantile=quantile).promised_quantile for quantile in (0.5, 0.9, 0.99, 0.999)] == pytest.approx(
        [0.5, 0.5, 0.9, 0.99]
    )
