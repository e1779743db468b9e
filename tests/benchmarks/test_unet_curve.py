import pytest

from benchmarks.diffusion.unet_curve import Curve
from benchmarks.loads.wishes import GUIDANCE, Wish

ALONE, GUIDED = Wish("a", 10, 1.0, 0), Wish("b", 10, GUIDANCE, 0)


def test_a_curve_that_is_proportional_to_rows_allows_nothing() -> None:
    curve = Curve({rows: 0.01 * rows for rows in (1, 2, 4, 8)})
    assert curve.allowed([ALONE, GUIDED]) == pytest.approx(1.0)


def test_a_flat_curve_allows_as_much_as_there_are_rows() -> None:
    curve = Curve(dict.fromkeys((1, 2, 4, 8), 0.01))
    assert curve.allowed([ALONE]) == pytest.approx(8.0)
    assert curve.allowed([GUIDED]) == pytest.approx(4.0)


def test_the_best_size_counts_not_the_largest() -> None:
    curve = Curve({1: 0.01, 2: 0.02, 4: 0.02, 8: 0.08})
    assert curve.best_rows_per_s == pytest.approx(200)


def test_between_sizes_it_is_a_line() -> None:
    curve = Curve({1: 0.01, 2: 0.02, 4: 0.03})
    assert curve.at(2) == pytest.approx(0.02)
    assert curve.at(3) == pytest.approx(0.025)
    assert curve.at(8) == pytest.approx(0.06)
    assert curve.at(0.5) == pytest.approx(0.01)
