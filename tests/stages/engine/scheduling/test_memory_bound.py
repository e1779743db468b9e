"""Bounds that follow what fits: lowered at once, raised with patience."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.contract.limits import BatchLimits
from stages.engine.scheduling.memory_bound import MAX_RETRIES, SEARCH_PATIENCE, MemoryBound


def test_a_batch_that_did_not_fit_is_halved_by_cost() -> None:
    bound = MemoryBound(BatchLimits(16))
    bound.ran_out(16, 160.0)
    assert bound.limits == BatchLimits(16, 80.0)


def test_it_is_cut_back_to_the_most_that_has_fitted() -> None:
    bound = MemoryBound(BatchLimits(16))
    bound.went_well(12.0)
    bound.ran_out(16, 16.0)
    assert bound.limits.max_cost == 12.0
    bound.ran_out(12, 12.0)  # what fitted once need not fit now
    assert bound.limits.max_cost == 6.0


def test_where_cost_cannot_tell_the_count_is_lowered() -> None:
    bound = MemoryBound(BatchLimits(16))
    bound.ran_out(6, 0.0)
    assert bound.limits == BatchLimits(3)


def test_it_closes_in_on_what_fits() -> None:
    bound, tried = MemoryBound(BatchLimits(16)), []
    bound.ran_out(5, 5.0)  # rows of 1; 4 would have fitted
    for _ in range(10 * SEARCH_PATIENCE):
        bound.went_well(math.floor(bound.limits.max_cost))
        tried.append(math.floor(bound.limits.max_cost))
    assert sorted(set(tried)) == [2, 3, 4]
    assert tried[-1] == 4


def test_the_bounds_rise_again_after_many_good_batches() -> None:
    bound = MemoryBound(BatchLimits(16), patience=10)
    bound.ran_out(2, 0.0)
    bound.went_well(8.0)
    bound.ran_out(8, 8.5)
    for _ in range(9):
        bound.went_well(4.0)
    assert bound.limits == BatchLimits(1, 8.0)
    bound.went_well(4.0)
    assert bound.limits == BatchLimits(2, 10.0)


def test_bounds_that_were_never_lowered_stay_as_configured() -> None:
    bound = MemoryBound(BatchLimits(16, 100.0), patience=1)
    for _ in range(5):
        bound.went_well(50.0)
    assert bound.limits == BatchLimits(16, 100.0)
    assert not bound.is_lowered


def test_each_failed_rise_doubles_the_patience_and_some_are_the_last() -> None:
    bound = MemoryBound(BatchLimits(16), patience=8)
    bound.ran_out(8, 8.0)
    rises = []
    for number in range(5000):
        cost = math.floor(bound.limits.max_cost)  # rows of 1; 4 fit
        if cost > 4:
            rises.append(number)
            bound.ran_out(cost, cost)
        else:
            bound.went_well(cost)
    searched, risen = rises[:-MAX_RETRIES], rises[-MAX_RETRIES:]
    assert 0 < len(searched) <= 2  # 8 was too much: 6, 5
    gaps = [later - earlier for earlier, later in itertools.pairwise(risen)]
    assert gaps == sorted(gaps)
    assert gaps[-1] > 8 * gaps[0]
    assert math.floor(bound.limits.max_cost) == 4


def test_once_a_neighbour_has_gone_the_configured_bounds_come_back() -> None:
    bound = MemoryBound(BatchLimits(16, 20.0), patience=2)
    bound.ran_out(16, 16.0)
    for _ in range(100):
        bound.went_well(bound.limits.max_cost)
    assert bound.limits == BatchLimits(16, 20.0)


@given(
    st.integers(1, 32),
    st.lists(st.tuples(st.booleans(), st.integers(1, 32), st.sampled_from([0.0, 0.5, 1.0, 7.0])), max_size=60),
)
def test_whatever_happens_the_bounds_stay_between_one_item_and_the_configuration(
    max_items: int, history: list[tuple[bool, int, float]]
) -> None:
    configured = BatchLimits(max_items, 50.0)
    bound = MemoryBound(configured, patience=2)
    for fits, items, each in history:
        count = min(items, bound.limits.max_items)
        cost = count * each
        if cost > bound.limits.max_cost:
            count, cost = 1, each
        if fits or count == 1:
            bound.went_well(cost)
            continue
        bound.ran_out(count, cost)
        now = bound.limits
        assert now.max_cost < cost or now.max_items < count
    assert 1 <= bound.limits.max_items <= max_items
    assert 0 < bound.limits.max_cost <= 50.0


@pytest.mark.parametrize("fits", [1, 3, 4, 7, 16])
def test_the_bound_finds_what_fits_in_few_attempts(fits: int) -> None:
    bound, failures = MemoryBound(BatchLimits(16)), 0
    for _ in range(30):
        count = max(1, min(16, math.floor(bound.limits.max_cost if bound.limits.max_cost < math.inf else 16)))
        if count > fits:
            failures += 1
            bound.ran_out(count, count)
        else:
            bound.went_well(count)
    assert failures <= 4
