"""Counts by upper bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.contract.histogram import ITEMS, SECONDS, Histogram


@given(st.lists(st.floats(0, 1000), max_size=30))
def test_every_observation_is_in_one_bucket_and_no_bucket_holds_what_is_over_its_bound(values: list[float]) -> None:
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.observe(value)
    told = histogram.counts()
    assert sum(told.counts) == len(values)
    assert told.total == pytest.approx(sum(values))
    for upto, bound in enumerate(told.bounds):
        assert sum(told.counts[: upto + 1]) == sum(value <= bound for value in values)


def test_what_was_told_changes_no_more() -> None:
    histogram = Histogram(ITEMS)
    histogram.observe(1)
    told = histogram.counts()
    histogram.observe(1000)
    assert (told.counts[0], told.counts[-1], told.total) == (1, 0, 1.0)
