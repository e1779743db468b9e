"""Measuring stages that take as long as a clock in their hands says."""

from stages.contract.recipe import Inputs
from stages.measuring.measure import measured
from stages.measuring.samples import Sample, row_counts
from tests.stages.fakes import Add, Adder, Countdown, CountFrom


class Watch:
    """Every look at it takes a millisecond, and so does all that lies between two looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def test_rows_are_tried_by_doubling() -> None:
    assert row_counts(1) == [1]
    assert row_counts(6) == [1, 2, 4, 6]
    assert row_counts(8) == [1, 2, 4, 8]


def test_a_one_shot_stages_batches_are_points() -> None:
    stage = Adder()
    samples = [Sample(lambda count=count: [Add(1, 2)] * count) for count in (1, 3)]  # type: ignore[misc]
    points, row_bytes = measured(stage, samples, 0.02, Watch())
    cost = stage.cost(stage.prepare(Add(1, 2), Inputs()))
    assert [(point.rows, point.amount) for point in points] == [(1, cost), (3, 3 * cost)]
    assert all(0.0009 < point.seconds < 0.0011 for point in points)
    assert row_bytes >= 0


def test_an_iterative_stages_steps_are_points_and_every_row_is_freed() -> None:
    stage = Countdown(slots=4)
    samples = [Sample(lambda: [CountFrom(3), CountFrom(2)])]
    points, _ = measured(stage, samples, 0.02, Watch())
    assert [(point.rows, point.amount) for point in points] == [(1, 1.0), (2, 2.0)]
    assert not stage.running
    assert len(stage.finished) == len(stage.started) > 6
