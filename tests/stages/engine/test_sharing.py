"""Engines of one process on one device: what they learn of their speed is as if each were alone, and what they expect counts the others."""

from collections.abc import Sequence
from typing import Any

import pytest

from stages.contract.engine import Load
from stages.contract.stage import Stepped
from stages.device.shared_device import DeviceShare, SharedDevice
from stages.engine.base import BaseEngine
from tests.stages.bench import Bench, submit
from tests.stages.fakes import Add, Adder, Count, Countdown, CountFrom, HandClock, Sum, Total

BATCH_S = 2.0


class Timed(Adder):
    def __init__(self, time: HandClock) -> None:
        super().__init__()
        self._time = time

    def run(self, batch: Sequence[Sum]) -> Sequence[Total]:
        self._time.now += BATCH_S
        return super().run(batch)


class TimedCountdown(Countdown):
    def __init__(self, time: HandClock) -> None:
        super().__init__()
        self._time = time

    def step(self, rows: Sequence[Count]) -> Sequence[Stepped]:
        self._time.now += BATCH_S
        return super().step(rows)


def share_of(device: SharedDevice, *, others_compute: bool, time: HandClock) -> DeviceShare:
    """Beside a stage that has much to do."""
    other = device.share()
    other.is_of(lambda: Load(1, 1, 1e9 if others_compute else 0.0))
    if others_compute:
        other.begin(time.now)
    return device.share()


@pytest.mark.parametrize("others_compute", [False, True])
@pytest.mark.parametrize("kind", ["one-shot", "iterative"])
def test_a_stage_learns_its_speed_as_if_its_device_were_its_own(bench: Bench, kind: str, others_compute: bool) -> None:
    share = share_of(SharedDevice(), others_compute=others_compute, time=bench.time)
    engine: BaseEngine[Any, Any]
    payload: object
    if kind == "one-shot":
        engine, payload = bench.one_shot(Timed(bench.time), share=share), Add(1)
    else:
        engine, payload = bench.iterative(TimedCountdown(bench.time), share=share), CountFrom(1)
    submit(engine, payload)[0].wait()
    speed = engine.load().speed
    assert speed is not None
    assert speed.step_s(1.0) == pytest.approx(BATCH_S / 2 if others_compute else BATCH_S)


@pytest.mark.parametrize("others_compute", [False, True])
def test_what_is_expected_of_an_item_counts_what_others_have_to_do_on_its_device(bench: Bench, others_compute: bool) -> None:
    share = share_of(SharedDevice(), others_compute=others_compute, time=bench.time)
    engine = bench.one_shot(Timed(bench.time), share=share)
    for _ in range(3):
        submit(engine, Add(1))[0].wait()
    told = engine.metrics()
    assert told["finish_expected_seconds_total"] == pytest.approx(
        2 * BATCH_S
    )  # the first was expected to take nobody knows how long
    assert told["finish_error_seconds_total"] == pytest.approx(0.0)


def test_a_stage_on_a_device_of_its_own_expects_nobody() -> None:
    assert SharedDevice().share().others_s() == []
