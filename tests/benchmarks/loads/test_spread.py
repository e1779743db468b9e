import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.loads.spread import percentile, spread


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)), rel=1e-9, abs=1e-9)


def test_a_spread_says_mean_median_and_worst() -> None:
    found = spread([1.0, 2.0, 3.0, 10.0])
    assert (found.mean, found.p50, found.max) == (4.0, 2.5, 10.0)
    assert found.p99 == pytest.approx(9.79)


def test_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 50)
