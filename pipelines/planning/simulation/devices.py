"""Devices in virtual time: how long a step takes there, noise and all, and what they did.

Decides a step's length from the cost model's times. Knows no requests.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.planning.simulation.clock import QUANTUM_S, quantized
from stages.contract.cost import Speed


@dataclass(frozen=True, slots=True)
class Noise:
    """By how much steps differ from their profile: lognormal, of median 1, with `sigma` the standard deviation of the logarithm. Drawn
    again whenever other rows share a step: what goes on unchanged takes as long as before."""

    sigma: float = 0.0


@dataclass(slots=True)
class Done:
    """What a device did within a window of time, seconds. `alive_s`: it was there; `busy_s`: it computed; `full_s`: what it did would have
    taken that long in full batches."""

    alive_s: float = 0.0
    busy_s: float = 0.0
    full_s: float = 0.0

    def add(self, other: "Done") -> None:
        self.alive_s += other.alive_s
        self.busy_s += other.busy_s
        self.full_s += other.full_s


class Device:
    """Of one replica. `slowness`: by how much longer than the profile says everything takes there, whatever anybody believes.
    `window`: of what is counted."""

    def __init__(
        self, speed: Speed, noise: Noise, source: random.Random, window: tuple[float, float], slowness: float = 1.0
    ) -> None:
        self.speed, self.slowness = speed, slowness
        self.done = Done()
        self._noise, self._source = noise, source
        self._since, self._until = window
        self._factor = 1.0
        self._full: dict[float, float] = {}

    def draw(self) -> None:
        """Others share the next step."""
        if self._noise.sigma:
            self._factor = self._source.lognormvariate(0.0, self._noise.sigma)

    def step_s(self, amount: float) -> float:
        return max(QUANTUM_S, quantized(self.speed.step.seconds(amount) * self.slowness * self._factor))

    def count(self, began: float, step_s: float, num_steps: int, amounts: Sequence[float]) -> None:
        """So many steps, from then on. `amounts`: what each row brings to one of them."""
        within = min(began + num_steps * step_s, self._until) - max(began, self._since)
        if within > 0:
            self.done.busy_s += within
            self.done.full_s += within / step_s * sum(map(self._full_s, amounts))

    def _full_s(self, amount: float) -> float:
        """A row's part of a step that is full of rows that bring as much."""
        seconds = self._full.get(amount)
        if seconds is None:
            speed = self.speed
            rows = max(1.0, min(speed.max_rows, speed.max_amount / amount if amount else speed.max_rows))
            seconds = self._full[amount] = speed.step.seconds(rows * amount) / rows
        return seconds
