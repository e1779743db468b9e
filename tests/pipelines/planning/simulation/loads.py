"""Small loads for one engine: items with times to come at, all different."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from pipelines.planning.simulation.engines.clock import ARRIVES, QUANTUM_S, Clock
from pipelines.planning.simulation.engines.devices import Device, Noise
from pipelines.planning.simulation.engines.engine import (
    Ended,
    Piece,
    VirtualEngine,
    VirtualIterativeEngine,
    VirtualOneShotEngine,
)
from stages.contract.cost import Speed, StepTimes
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.work import Work

CHUNK = 16
STEP = StepTimes(((1.0, 0.05), (4.0, 0.08), (40.0, 0.5)))
LINE = QueueLimits(max_items=1000)


@dataclass(frozen=True)
class Given:
    """One item. `at`: in whole milliseconds and a quantum of its own, so that no two things happen at the same moment."""

    number: int
    at_ms: int
    amount: float = 1.0
    steps: int = 1
    prompt: int = 0
    key: str = "a"
    priority: int = 0
    allowed_ms: int = 10**9
    tenant: str = "default"

    @property
    def at(self) -> float:
        return round(self.at_ms / 1000 / QUANTUM_S) * QUANTUM_S + self.number * 64 * QUANTUM_S

    @property
    def deadline(self) -> float:
        return self.at + round(self.allowed_ms / 1000 / QUANTUM_S) * QUANTUM_S


def loads(*, prompts: bool = True, max_items: int = 14) -> st.SearchStrategy[list[Given]]:
    one = st.builds(
        Given,
        number=st.just(0),
        at_ms=st.integers(0, 3000),
        amount=st.sampled_from([1.0, 2.0, 3.0]),
        steps=st.integers(1, 25),
        prompt=st.integers(0, 40) if prompts else st.just(0),
        key=st.sampled_from("aab"),
        priority=st.sampled_from([0, 0, 0, -1, 1]),
        allowed_ms=st.sampled_from([10**9, 10**9, 1500, 4000]),
        tenant=st.sampled_from(["x", "x", "x", "y"]),
    )
    return st.lists(one, min_size=1, max_size=max_items).map(_numbered)


def _numbered(given: Sequence[Given]) -> list[Given]:
    ordered = sorted(given, key=lambda one: one.at_ms)
    return [Given(**{**vars(one), "number": number}) for number, one in enumerate(ordered)]


def ends(
    given: Sequence[Given], *, limits: BatchLimits, is_one_shot: bool = False, folds: bool = True, sigma: float = 0.0
) -> dict[int, tuple[str, float]]:
    """How each ended in virtual time, and when."""
    clock, found = Clock(), dict[int, tuple[str, float]]()
    engine = virtual(clock, limits, is_one_shot=is_one_shot, folds=folds, sigma=sigma)

    def told(number: int) -> Callable[[Piece, Ended], None]:
        return lambda piece, ended: found.__setitem__(number, (ended.value, clock.now))

    for one in given:
        clock.at(one.at, ARRIVES, 0, engine.submit, piece_of(one, told(one.number)))
    clock.run()
    return found


def virtual(
    clock: Clock, limits: BatchLimits, *, is_one_shot: bool = False, folds: bool = True, sigma: float = 0.0
) -> VirtualEngine:
    device = Device(Noise(sigma), random.Random(1), (0.0, float("inf")))
    speed = Speed(STEP, limits.max_items, limits.max_cost)
    if is_one_shot:
        return VirtualOneShotEngine(clock, 0, "stage", limits, LINE, device, speed, None)
    return VirtualIterativeEngine(
        clock, 0, "stage", limits, LINE, device, speed, None, chunk=CHUNK, is_shared=True, folds=folds
    )


def piece_of(one: Given, told: Callable[[Piece, Ended], None]) -> Piece:
    return Piece(
        str(one.number),
        one.amount,
        one.steps,
        one.prompt,
        Work(one.prompt + one.amount * one.steps, one.steps),
        told,
        one.key,
        one.priority,
        one.deadline,
        one.tenant,
    )
