"""What `benchmarks.fleet` sends, and how others choose."""

from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.fleet.baselines import LeastOutstanding, RoundRobin, TwoChoices
from benchmarks.fleet.mixes import LOAD, Mix, mixes
from stages.contract.work import NO_WORK

RATE = 50.0


@pytest.mark.parametrize("mix", mixes(RATE, 4000), ids=lambda mix: mix.name)
def test_every_mix_asks_for_nine_tenths_of_what_the_devices_do_with_full_batches(mix: Mix) -> None:
    works = [request.work for request in mix.requests]
    mean = sum(works, start=NO_WORK) * (1 / len(works))
    capacity = sum(pool.num_replicas * pool.speed.rate(mean) for pool in mix.pools)
    assert RATE / capacity == pytest.approx(LOAD)
    assert mix.rate == pytest.approx(RATE, rel=0.1)


def test_the_speeds_are_one_to_three_to_six() -> None:
    for mix in mixes(RATE, 100):
        slow, medium, fast = (pool.speed.step_s(1.0) for pool in mix.pools)
        assert [slow / medium, slow / fast] == pytest.approx([3, 6])


def test_every_side_is_sent_the_same() -> None:
    assert mixes(RATE, 100) == mixes(RATE, 100)
    assert replace(mixes(RATE, 100)[0], requests=()) != replace(mixes(2 * RATE, 100)[0], requests=())


def test_round_robin_takes_turns() -> None:
    chooser = RoundRobin()
    assert [chooser.choose([9, 0, 0]) for _ in range(4)] == [0, 1, 2, 0]


def test_least_outstanding_takes_any_of_the_least_busy() -> None:
    chooser = LeastOutstanding()
    assert {chooser.choose([2, 1, 3, 1]) for _ in range(50)} == {1, 3}


def test_two_choices_takes_the_less_busy_of_two_at_random_and_never_a_full_one() -> None:
    chooser = TwoChoices(max_ongoing=3)
    chosen = Counter(chooser.choose([0, 1, 3]) for _ in range(300))
    assert set(chosen) == {0, 1}
    assert chosen[0] > chosen[1]
    assert chooser.choose([3, 3, 4]) is None
