"""How fast a device works, learned from what it did."""

import random

import pytest

from stages.contract.cost import StepTimes
from stages.contract.limits import BatchLimits
from stages.contract.work import Work
from stages.engine.scheduling.learned_speed import LearnedSpeed, MeasuredSteps

LIMITS = BatchLimits(max_items=8, max_cost=100)
PROFILE = StepTimes(((1.0, 0.010), (8.0, 0.012), (64.0, 0.030)))


def profiled() -> LearnedSpeed:
    learned = LearnedSpeed()
    learned.begin_with(MeasuredSteps(PROFILE, is_estimate=True))
    return learned


def test_nothing_is_known_before_anything_was_seen() -> None:
    learned = LearnedSpeed()
    assert learned.of(LIMITS) is None
    assert learned.more_s(10) is None


def test_without_a_profile_the_line_is_learned() -> None:
    learned, noise = LearnedSpeed(is_one_shot=True), random.Random(1)
    for _ in range(500):
        amount = noise.randint(1, 64)
        learned.observe(amount, (0.02 + 0.001 * amount) * noise.uniform(0.9, 1.1))
    speed = learned.of(LIMITS)
    assert speed is not None
    assert (speed.max_rows, speed.max_amount, speed.factor, speed.is_one_shot, speed.is_estimate) == (8, 100, 1.0, True, False)
    assert speed.step_s(40) == pytest.approx(0.06, rel=0.03)
    assert learned.more_s(100) == pytest.approx(0.1, rel=0.05)


def test_a_profile_is_right_from_the_first_item_on_and_a_factor_corrects_it() -> None:
    learned = profiled()
    speed = learned.of(LIMITS)
    assert speed is not None
    assert (speed.step_s(8), speed.is_estimate) == (0.012, True)
    for _ in range(50):
        learned.observe(8, 0.018)
        learned.observe(64, 0.045)
    speed = learned.of(LIMITS)
    assert speed is not None
    assert speed.factor == pytest.approx(1.5)
    assert speed.step_s(1) == pytest.approx(0.015)
    assert learned.more_s(63) == pytest.approx(1.5 * 0.020)


def test_a_step_that_compiled_does_not_make_the_device_slow() -> None:
    learned = profiled()
    learned.observe(8, 60.0)
    for _ in range(100):
        learned.observe(8, 0.012)
    speed = learned.of(LIMITS)
    assert speed is not None
    assert speed.factor < 1.15


@pytest.mark.parametrize("compiling", [[0], [0, 1, 2], [7], [0, 50]])
def test_without_a_profile_neither_does_a_step_that_compiled(compiling: list[int]) -> None:
    learned = LearnedSpeed(is_one_shot=True)
    for at in range(60):
        learned.observe(8, 20.0 if at in compiling else 0.02)
    speed = learned.of(LIMITS)
    assert speed is not None
    assert speed.step_s(8) == pytest.approx(0.02, rel=0.5)


def test_a_line_drawn_from_many_steps_outlasts_a_quick_one() -> None:
    learned = LearnedSpeed()
    for _ in range(100):
        learned.observe(8, 0.02)
    learned.observe(8, 0.0001)
    speed = learned.of(LIMITS)
    assert speed is not None
    assert speed.step_s(8) == pytest.approx(0.02, rel=0.05)


def test_steps_of_very_unlike_amounts_become_one_line() -> None:
    """What reads a prompt and what answers: through nothing, either would say of the other what is far from true."""
    learned = LearnedSpeed()
    for at in range(200):
        learned.observe(*((512, 0.1) if at % 20 == 0 else (1, 0.008)))
    speed = learned.of(BatchLimits(max_items=8, max_cost=1000))
    assert speed is not None
    assert speed.step_s(1) == pytest.approx(0.008, rel=0.2)
    assert speed.step_s(512) == pytest.approx(0.1, rel=0.2)


def test_what_is_in_no_step_is_in_none_whatever_the_limits_say() -> None:
    learned = LearnedSpeed(max_amount=20)
    learned.observe(4, 1.0)
    speed = learned.of(BatchLimits(max_items=4))
    assert speed is not None
    assert speed.max_amount == 20


def test_the_margin_covers_nineteen_of_twenty() -> None:
    learned, noise = LearnedSpeed(), random.Random(1)
    learned.observe(1, 1.0)
    for _ in range(500):
        learned.took(1.0, noise.lognormvariate(0.0, 0.3))
    speed = learned.of(LIMITS)
    assert speed is not None
    covered = sum(noise.lognormvariate(0.0, 0.3) <= speed.margin for _ in range(2000)) / 2000
    assert covered == pytest.approx(0.95, abs=0.04)


def test_many_who_were_late_alike_say_no_more_than_how_late_they_were() -> None:
    learned = LearnedSpeed()
    learned.observe(1, 1.0)
    for _ in range(50):
        learned.took(1.0, 2.0)
    speed = learned.of(LIMITS)
    assert speed is not None
    assert speed.margin == pytest.approx(2.0, rel=0.01)


def test_who_is_never_late_needs_no_margin() -> None:
    learned = LearnedSpeed()
    learned.observe(1, 1.0)
    for _ in range(200):
        learned.took(1.0, 0.9)
    speed = learned.of(LIMITS)
    assert speed is not None
    assert speed.margin == 1.0


def test_what_items_take_beside_the_device_multiplies_no_line() -> None:
    learned, noise = LearnedSpeed(), random.Random(1)
    learned.observe(1, 0.02)
    for _ in range(300):
        learned.took(0.02, 0.02 + noise.uniform(0.06, 0.1), was_alone=True, is_typical=False)
        learned.took(0.06, 0.06 + noise.uniform(0.06, 0.1))
    speed = learned.of(LIMITS)
    assert speed is not None
    assert speed.margin < 1.5
    assert speed.finish_quantile_s(Work(1.0), Work(250.0, 250.0), 250) < 2 * speed.finish_s(Work(1.0), Work(250.0, 250.0), 250)


def test_long_items_are_measured_without_what_they_take_beside_the_device() -> None:
    learned = LearnedSpeed()
    learned.observe(1, 1.0)
    for _ in range(200):
        learned.took(1.0, 2.0, was_alone=True, is_typical=False)
        learned.took(1.0, 2.0)
    assert learned.metrics()["finish_margin"] < 1.2


def test_who_had_to_let_others_go_first_and_who_had_nothing_to_do_teach_no_margin() -> None:
    learned = LearnedSpeed()
    before = learned.metrics()["finish_margin"]
    for _ in range(50):
        learned.took(1.0, 30.0, is_typical=False)
        learned.took(0.0, 30.0)
    assert learned.metrics()["finish_margin"] == before


def test_what_is_asked_is_learned_where_nobody_says_it() -> None:
    learned = LearnedSpeed()
    assert learned.foreseen(10) == Work(10, 1)
    assert learned.foreseen(10, Work(70, 7)) == Work(70, 7)
    for _ in range(300):
        learned.asked(16, Work(800, 50))
    found = learned.foreseen(32)
    assert found.amount == pytest.approx(1600, rel=0.01)
    assert found.steps == pytest.approx(50, rel=0.01)


def test_what_runs_once_is_what_it_weighs() -> None:
    learned = LearnedSpeed(is_one_shot=True)
    assert learned.foreseen(10, Work(70, 7)) == Work(10, 1)


def test_the_models_error_is_counted() -> None:
    learned = profiled()
    learned.observe(8, 0.015)
    learned.took(2.0, 3.0)
    metrics = learned.metrics()
    assert metrics["step_expected_seconds_total"] == pytest.approx(0.012)
    assert metrics["step_taken_seconds_total"] == pytest.approx(0.015)
    assert metrics["step_error_seconds_total"] == pytest.approx(0.003)
    assert (metrics["finish_expected_seconds_total"], metrics["finish_error_seconds_total"]) == (2.0, 1.0)
    assert metrics["speed_factor"] == pytest.approx(1.25)
