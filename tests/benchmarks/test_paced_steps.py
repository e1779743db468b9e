import pytest

from benchmarks.paced.findings import until_freed_s
from benchmarks.paced.loads import Gone
from benchmarks.paced.stages import Step
from benchmarks.paced.steps import StepHistory, device_s, gaps_s, line_through

STEPS = [Step(0.0, 1.0, (1, 2)), Step(1.5, 2.5, (2,)), Step(2.5, 3.5, (2, 3))]


def test_a_row_has_the_steps_it_took_part_in() -> None:
    rows = StepHistory(STEPS).of_rows()
    assert rows[1] == [STEPS[0]]
    assert rows[2] == STEPS
    assert device_s(rows[3]) == 1.0


def test_busy_is_the_share_of_time_in_steps_cut_at_both_ends() -> None:
    history = StepHistory(STEPS)
    assert history.busy_share(0.0, 2.5) == pytest.approx(0.8)
    assert history.busy_share(0.5, 1.5) == pytest.approx(0.5)
    assert history.within(0.0, 2.6) == STEPS[:2]


def test_gaps_lie_between_steps() -> None:
    assert gaps_s(STEPS) == [0.5, 0.0]


def test_a_row_is_freed_when_its_last_step_ends() -> None:
    gone = [Gone(seed=1, left_at=0.25), Gone(seed=2, left_at=3.75)]
    assert until_freed_s(gone, StepHistory(STEPS)) == [0.75, 0.0]


def test_a_line_goes_through_both_points() -> None:
    line = line_through(8, 10.0, 64, 38.0)
    assert (line.fixed, line.each) == (6.0, 0.5)
