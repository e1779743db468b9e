import itertools
import statistics

import pytest

from benchmarks.loads.arrivals import every, poisson


def test_the_same_seed_gives_the_same_arrivals() -> None:
    assert poisson(3.0, 50, seed=7) == poisson(3.0, 50, seed=7)
    assert poisson(3.0, 50, seed=7) != poisson(3.0, 50, seed=8)


def test_another_rate_only_stretches_them() -> None:
    slow, fast = poisson(1.0, 20, seed=1), poisson(4.0, 20, seed=1)
    assert slow == pytest.approx([4 * moment for moment in fast])


def test_poisson_gaps_have_the_mean_and_the_deviation_of_an_exponential() -> None:
    moments = [0.0, *poisson(5.0, 20_000, seed=3)]
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert statistics.mean(gaps) == pytest.approx(0.2, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.2, rel=0.05)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="rate 0"):
        poisson(0, 1, seed=0)


def test_equal_distances_begin_at_nothing() -> None:
    assert every(0.5, 3) == [0.0, 0.5, 1.0]
