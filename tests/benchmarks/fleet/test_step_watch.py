"""How much longer than their device steps of the live benchmark's stages take is told from what the clock says around them."""

import pytest

from benchmarks.fleet.live.sleeping import Longer, StepWatch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_first_step_counts_from_its_own_beginning(clock: Clock) -> None:
    watch = StepWatch(clock)
    watch.came()
    clock.now = 107.5
    watch.stepped(107.0, 0.25, num_done=1)
    assert watch.longer == Longer(0.25, 1)


def test_what_lies_between_two_steps_counts_while_somebody_is_there(clock: Clock) -> None:
    watch = StepWatch(clock)
    watch.came()
    watch.stepped(99.0, 1.0, num_done=0)
    clock.now = 102.0
    watch.stepped(101.5, 0.5, num_done=1)
    assert watch.longer == Longer(1.5, 2)


def test_nobody_there_is_not_longer(clock: Clock) -> None:
    watch = StepWatch(clock)
    watch.came()
    watch.stepped(99.0, 1.0, num_done=1)
    watch.came()
    clock.now = 200.0
    watch.stepped(199.0, 1.0, num_done=1)
    assert watch.longer == Longer(0.0, 2)


def test_a_batch_that_leaves_others_waiting_counts_on(clock: Clock) -> None:
    watch = StepWatch(clock)
    for _ in range(3):
        watch.came()
    watch.stepped(99.0, 1.0, num_done=2)
    clock.now = 101.0
    watch.stepped(100.5, 0.5, num_done=1)
    assert watch.longer == Longer(0.5, 2)


def test_each_is_the_mean_and_never_less_than_nothing() -> None:
    assert (Longer(1.0, 8) - Longer(0.5, 4)).each_s == 0.125
    assert Longer(-1.0, 8).each_s == 0.0
    assert Longer().each_s == 0.0
    assert Longer(1.0, 1) + Longer(2.0, 1) == Longer(3.0, 2)
