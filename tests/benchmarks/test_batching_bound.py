import pytest

from benchmarks.encoder.batching_bound import least_median_s
from benchmarks.loads.arrivals import every


def test_alone_a_request_takes_its_run() -> None:
    assert least_median_s([0.0], 0.3, 16) == pytest.approx(0.3)


def test_two_at_once_share_a_batch() -> None:
    assert least_median_s([0.0, 0.0], 0.3, 16) == pytest.approx(0.3)


def test_the_better_half_may_be_served_first() -> None:
    """Batches of one: of three at once, two are the half; the second waits for the first."""
    assert least_median_s([0.0, 0.0, 0.0], 1.0, 1) == pytest.approx(2.0)


def test_far_apart_nobody_waits() -> None:
    assert least_median_s(every(1.0, 5), 0.3, 4) == pytest.approx(0.3)


def test_one_each_20_ms_at_300_ms_a_batch() -> None:
    """Three batches begin while requests come, or four; each serves seven within 300 + 6 x 20 ms."""
    assert least_median_s(every(0.02, 40), 0.3, 16) == pytest.approx(0.42)


def test_full_batches_bound_it_too() -> None:
    """Eight at once in batches of two: half of them are done after two batches."""
    assert least_median_s([0.0] * 8, 0.3, 2) == pytest.approx(0.6)
