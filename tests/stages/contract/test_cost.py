"""The cost model, held against devices that run by its own rules, step by step."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.contract.cost import Ahead, Part, Speed, StepTimes, Turns
from stages.contract.work import NO_WORK, Work

TIMES = StepTimes(((1.0, 0.010), (16.0, 0.025), (256.0, 0.265)))  # 9 ms, and 1 ms for each unit
AMOUNTS = st.floats(0.5, 500)
COUNTS = st.integers(0, 60)


def rows(max_rows: int = 8, max_amount: float = math.inf, factor: float = 1.0) -> Speed:
    return Speed(TIMES, max_rows, max_amount, factor)


def batches(max_rows: int = 8, max_amount: float = math.inf) -> Speed:
    return Speed(TIMES, max_rows, max_amount, is_one_shot=True)


def test_step_times_are_lines_between_points() -> None:
    assert (TIMES.seconds(0.1), TIMES.seconds(1), TIMES.seconds(16), TIMES.seconds(256)) == (0.010, 0.010, 0.025, 0.265)
    assert TIMES.seconds(8.5) == pytest.approx(0.0175)
    assert TIMES.seconds(512) == pytest.approx(0.265 + 0.256)
    assert StepTimes(((4.0, 0.2),)).seconds(8) == 0.4
    assert StepTimes(((4.0, 0.2),)).seconds(1) == 0.2


@pytest.mark.parametrize("points", [(), ((1.0, 1.0), (1.0, 2.0)), ((2.0, 1.0), (1.0, 2.0)), ((1.0, 0.0),)])
def test_impossible_step_times_are_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="a step's times need rising amounts"):
        StepTimes(points)


def test_more_work_takes_what_each_unit_adds() -> None:
    assert TIMES.more_s(100) == pytest.approx(0.1)
    assert StepTimes(((4.0, 0.2),)).more_s(8) == 0.4
    assert StepTimes(((1.0, 0.2), (8.0, 0.2))).more_s(8) == 0.0


def test_an_item_alone_takes_its_steps() -> None:
    assert rows().finish_s(Work(80, 10)) == pytest.approx(10 * TIMES.seconds(8))
    assert rows(factor=2.0).finish_s(Work(80, 10)) == pytest.approx(20 * TIMES.seconds(8))
    assert batches().finish_s(Work(16)) == 0.025
    assert rows().finish_s(NO_WORK) == 0.0


def test_company_makes_steps_longer() -> None:
    """Of three equal rows that have as much left as the newcomer, it shares all of its steps with them; half a step goes before."""
    found = rows().finish_s(Work(10, 10), Work(30, 30), 3)
    assert found == pytest.approx(10 * TIMES.seconds(4) + 0.5 * TIMES.seconds(3))


def test_who_finds_no_place_waits_for_one() -> None:
    """Of eight rows with ten steps left, one after the other ends about every 10/8 steps."""
    full_s = TIMES.seconds(8)
    found = rows().finish_s(Work(10, 10), Work(80, 80), 8)
    assert found == pytest.approx(10 / 8 * full_s + 10 * full_s)
    later = rows().finish_s(Work(10, 10), Work(160, 160), 16)
    assert later == pytest.approx(9 * 10 / 8 * full_s + 10 * full_s)


@pytest.mark.parametrize(
    ("num_items", "expected_s"),
    [
        (2, 0.5 * TIMES.seconds(20) + TIMES.seconds(10)),  # two run, and are half done
        (4, 0.5 * TIMES.seconds(40) + TIMES.seconds(10)),
        (6, 0.5 * TIMES.seconds(40) + TIMES.seconds(30)),  # with the two that wait
        (8, 0.5 * TIMES.seconds(40) + TIMES.seconds(40) + TIMES.seconds(10)),
        (9, 0.5 * TIMES.seconds(40) + TIMES.seconds(40) + TIMES.seconds(20)),
    ],
)
def test_who_comes_to_batches_waits_for_the_one_that_runs(num_items: int, expected_s: float) -> None:
    running = min(num_items, 4)
    left = Work(10, 1) * (num_items - 0.5 * running)
    assert batches(max_rows=4).finish_s(Work(10), left, num_items) == pytest.approx(expected_s)


def test_what_does_not_fit_into_the_last_batch_goes_after_it() -> None:
    speed = batches(max_rows=4, max_amount=40)
    outstanding = Work(10, 1) * (4 + 2)
    assert speed.finish_s(Work(15), outstanding, 6) == pytest.approx(TIMES.seconds(40) + TIMES.seconds(35))
    assert speed.finish_s(Work(30), outstanding, 6) == pytest.approx(TIMES.seconds(40) + TIMES.seconds(20) + TIMES.seconds(30))


@given(AMOUNTS, st.floats(1, 100), COUNTS, AMOUNTS, st.floats(1, 100), st.booleans())
def test_a_finish_is_what_lies_ahead_and_what_comes_after(
    amount: float, steps: float, num_items: int, each: float, each_steps: float, one_shot: bool
) -> None:
    speed = batches(max_amount=300) if one_shot else rows(max_amount=300)
    work = Work(amount, 1.0 if one_shot else steps)
    outstanding = Work(each, 1.0 if one_shot else each_steps) * num_items
    ahead = speed.ahead(outstanding, num_items)
    assert isinstance(ahead, Ahead)
    assert speed.finish_s(work, outstanding, num_items) == speed.after(work, ahead)
    assert speed.finish_s(work, outstanding, num_items) >= speed.finish_s(work) * (1 - 1e-9)
    assert 0 <= ahead.waits_s < math.inf


@given(AMOUNTS, st.integers(1, 40), st.integers(1, 30), st.integers(1, 8))
def test_equal_jobs_drain_as_they_would_step_by_step(amount: float, steps: int, num_items: int, max_rows: int) -> None:
    """Rows join and leave between steps. The model takes places to be taken at once, and rows to end together."""
    seconds, waiting, running = 0.0, [steps] * num_items, list[int]()
    while waiting or running:
        while waiting and len(running) < max_rows:
            running.append(waiting.pop())
        seconds += TIMES.seconds(amount * len(running))
        running = [left - 1 for left in running if left > 1]
    found = rows(max_rows).drain_s(Work(amount * steps, steps) * num_items, num_items)
    last_s = steps * TIMES.seconds(amount * max_rows)  # of a last round that is not full, the most
    assert found - 1e-9 <= seconds <= found + last_s


@given(st.integers(0, 40), st.integers(1, 40), st.integers(1, 8))
def test_a_newcomer_among_equals_finishes_as_it_would_step_by_step(num_items: int, steps: int, max_rows: int) -> None:
    """Those that run are spread over their lives, as they are where they came one after the other."""
    running = [steps * (index + 1) / max_rows for index in range(min(num_items, max_rows))]
    waiting = [float(steps)] * (num_items - len(running)) + [math.nextafter(float(steps), math.inf)]  # the newcomer
    outstanding = sum(running) + steps * (len(waiting) - 1)
    expected = rows(max_rows).finish_s(Work(float(steps), float(steps)), Work(outstanding, outstanding), num_items)
    seconds = 0.0
    while True:
        while waiting and len(running) < max_rows:
            running.append(waiting.pop(0))
        seconds += TIMES.seconds(len(running))
        ended = not waiting and max(running) - 1 <= 0
        running = [left - 1 for left in running if left > 1]
        if ended or (not waiting and not running):
            break
    assert expected == pytest.approx(seconds, rel=0.45, abs=2 * TIMES.seconds(max_rows))


def test_the_quantile_goes_by_what_was_missed() -> None:
    speed = Speed(TIMES, 8, math.inf, margin=1.5)
    work = Work(10, 10)
    assert speed.finish_quantile_s(work) == pytest.approx(1.5 * speed.finish_s(work))
    assert speed.finish_quantile_s(work, quantile=0.5) == pytest.approx(speed.finish_s(work))
    assert speed.finish_quantile_s(work, quantile=0.99) > speed.finish_quantile_s(work)
    assert rows().finish_quantile_s(work, quantile=0.99) == rows().finish_s(work)


def test_the_rate_is_that_of_full_steps() -> None:
    assert rows(max_rows=4).rate(Work(10, 10)) == pytest.approx(4 / (10 * TIMES.seconds(4)))
    assert batches(max_rows=8, max_amount=35).rate(Work(10)) == pytest.approx(3 / TIMES.seconds(30))
    assert batches(max_rows=8, max_amount=5).rate(Work(10)) == pytest.approx(1 / TIMES.seconds(10))


@pytest.mark.parametrize(
    ("own", "others", "before"),
    [
        (0, [100], 8),  # what shares a step is there
        (0, [3], 3),
        (20, [100], 41),
        (20, [100, 5, 100], 67),
        (100, [20], 120),
        (5, [], 5),
    ],
)
def test_of_other_tenants_goes_before_an_item_what_its_own_has_and_the_item(
    own: int, others: list[int], before: float
) -> None:
    each = Work(2.0, 1.0)
    parts = {f"other {number}": Part(each * count, count) for number, count in enumerate(others)}
    parts |= {"own": Part(each * own, own)} if own else {}
    num = own + sum(others)
    work, num_items = Turns(each * num, num, parts).before("own", each.amount, 8)
    assert (work.amount, work.steps, num_items) == pytest.approx((2.0 * before, before, before))


def test_ones_own_of_less_urgency_goes_behind_and_others_have_their_turns_whatever_its_urgency() -> None:
    one = Work(1.0)
    parts = {"own": Part(one * 50, 50, one * 40, 40), "other": Part(one * 100, 100, one * 100, 100)}
    turns = Turns(one * 150, 150, parts)
    assert turns.before("own", 1.0, 1) == (one * 21, 21)
    assert turns.before("own", 1.0, 1, is_urgent=False) == (one * 101, 101)


def test_whose_work_nobody_tells_goes_before_everybodys() -> None:
    turns = Turns(Work(50.0, 50.0), 50, {"other": Part(Work(20.0, 20.0), 20)})
    assert turns.before("own", 1.0, 1) == (Work(31.0, 31.0), 31.0)
    assert Turns[str](NO_WORK, 0, {}).before("own", 1.0, 8) == (NO_WORK, 0.0)


PARTS = st.dictionaries(st.integers(0, 4), st.tuples(AMOUNTS, COUNTS), max_size=5)


@given(PARTS, st.integers(0, 4), AMOUNTS, AMOUNTS, COUNTS, st.integers(1, 16))
def test_no_more_goes_before_than_there_is_and_nothing_of_ones_own_is_passed(
    told: dict[int, tuple[float, int]], tenant: int, asks: float, untold: float, num_untold: int, company: int
) -> None:
    parts = {who: Part(Work(amount * num, num), num) for who, (amount, num) in told.items() if num}
    outstanding = sum((part.outstanding for part in parts.values()), Work(untold * num_untold, num_untold))
    num_items = sum(part.num_items for part in parts.values()) + num_untold
    work, num = Turns(outstanding, num_items, parts).before(tenant, asks, company)
    own = parts.get(tenant, Part(NO_WORK, 0.0))
    few = 1 - 1e-9
    assert few * own.outstanding.amount <= work.amount <= outstanding.amount
    assert few * own.outstanding.steps <= work.steps <= outstanding.steps
    assert few * max(own.num_items, min(company, num_items)) <= num <= num_items
    if parts.keys() <= {tenant}:
        assert (work.amount, work.steps, num) == pytest.approx((outstanding.amount, outstanding.steps, num_items))
