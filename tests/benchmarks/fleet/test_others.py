"""Others' deciders at the simulator's seams."""

import random

from benchmarks.fleet.baselines import LEAST_OUTSTANDING, TWO_CHOICES
from benchmarks.fleet.mixes import mixes
from benchmarks.fleet.others import ServesScaling, router
from benchmarks.fleet.simulated import SIDES, fleet_of, pools_of, requests_of, router_of, stage_of
from pipelines.planning.scaling.pool_state import PoolState
from pipelines.planning.simulation.deciders import Place
from pipelines.planning.simulation.simulation import simulate
from pipelines.routing.candidate import Wanted

ANY = Wanted(None)


def test_least_outstanding_counts_what_it_sent_and_has_no_answer_to() -> None:
    places = [Place("a", "a-0", 10), Place("b", "b-0", 10)]
    side = router(LEAST_OUTSTANDING, 0)
    side.there_are("a", ["s"], places[:1], 0.0)
    side.there_are("b", ["s"], places[1:], 0.0)
    first = side.choose("s", ANY, 0.0)
    assert first is not None
    token = side.sent("s", first, None, 0.0)
    other = side.choose("s", ANY, 0.0)
    assert other is not None
    assert other is not first
    side.sent("s", other, None, 0.0)
    side.ended(token)
    assert side.choose("s", ANY, 0.0) is first


def test_two_choices_has_nobody_where_both_are_full() -> None:
    side = router(TWO_CHOICES, 0)
    side.there_are("a", ["s"], [Place("a", f"a-{number}", 5, ongoing=5) for number in range(2)], 0.0)
    assert side.choose("s", ANY, 0.0) is None


def wanted(scaler: ServesScaling, ongoing: float, running: int, begins: int, seconds: int) -> list[int]:
    """What is wanted in each second."""
    pool = PoolState("a", (), running=running, max_replicas=8)
    return [scaler.targets([pool], {"a": ongoing}, float(begins + second))["a"] for second in range(seconds)]


def test_serves_own_scaling_rises_after_half_a_minute_and_falls_after_ten() -> None:
    scaler = ServesScaling({"a": 2.0})
    assert wanted(scaler, 4.0, 2, 0, 60) == [2] * 60
    rising = wanted(scaler, 40.0, 2, 60, 60)
    assert 2 in rising[:30]
    assert rising[-1] == 8  # the most there may be
    falling = wanted(scaler, 4.0, 8, 120, 700)
    assert falling[599] == 8
    assert falling[-1] == 2


def test_every_side_does_all_that_is_asked() -> None:
    mix = mixes(200.0, 60)[0]
    for side in SIDES:
        found = simulate(fleet_of([stage_of(mix)], pools_of(mix), side), requests_of(mix), router_of(side)).figures()
        assert (found.num, found.num_done) == (60, 60), side


def test_a_router_is_made_for_each_caller() -> None:
    source = random.Random(1)
    assert router_of(TWO_CHOICES)(source) is not router_of(TWO_CHOICES)(source)
