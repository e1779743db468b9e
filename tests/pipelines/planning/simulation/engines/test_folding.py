"""Steps that are taken at once end at the same moments, to the last bit, as steps that are taken one by one."""

import pytest
from hypothesis import given, settings

from stages.contract.limits import BatchLimits
from tests.pipelines.planning.simulation.loads import Given, ends, loads


@settings(max_examples=40, deadline=None)
@given(loads())
def test_folded_steps_end_when_unfolded_ones_do(load: list[Given]) -> None:
    for limits in (BatchLimits(4), BatchLimits(3, 5.0)):
        assert ends(load, limits=limits) == ends(load, limits=limits, folds=False)


@settings(max_examples=25, deadline=None)
@given(loads(max_items=25))
def test_folded_steps_draw_the_same_noise(load: list[Given]) -> None:
    limits = BatchLimits(4)
    assert ends(load, limits=limits, sigma=0.3) == ends(load, limits=limits, sigma=0.3, folds=False)


@pytest.mark.parametrize("arrives_ms", [1, 499, 500, 501, 3_000])
def test_who_comes_while_steps_are_folded_joins_the_next_step(arrives_ms: int) -> None:
    load = [Given(0, 0, steps=100), Given(1, arrives_ms, steps=1)]
    (_, first), (_, second) = (ends(load, limits=BatchLimits(4))[number] for number in (0, 1))
    begins = -(-load[1].at // 0.05) * 0.05  # steps of 0.05 s while there is one row
    assert second == pytest.approx(begins + 0.06, abs=1e-6)
    assert first == pytest.approx(100 * 0.05 + 0.01, abs=1e-6)
