"""Devices in virtual time: how long a step takes there, noise and all, whose turn it is where stages share one, and what it did.

Decides a step's length from the cost model's times. Knows no requests.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipelines.planning.simulation.engines.clock import QUANTUM_S, quantized
from stages.contract.cost import Speed
from stages.contract.engine import Load


@dataclass(frozen=True, slots=True)
class Noise:
    """By how much steps differ from their profile: lognormal, of median 1, with `sigma` the standard deviation of the logarithm. Drawn
    again whenever other rows share a step: what goes on unchanged takes as long as before."""

    sigma: float = 0.0


NO_NOISE = Noise()


@dataclass(slots=True)
class Done:
    """What devices did within a window of time, seconds. `alive_s`: they were there; `busy_s`: they computed; `full_s`: what they did would
    have taken that long in full batches."""

    alive_s: float = 0.0
    busy_s: float = 0.0
    full_s: float = 0.0

    @property
    def utilisation(self) -> float:
        return self.busy_s / self.alive_s if self.alive_s else 0.0

    @property
    def full_part(self) -> float:
        """Of what they could have done, all of the time with full batches."""
        return self.full_s / self.alive_s if self.alive_s else 0.0

    def add(self, other: "Done") -> None:
        self.alive_s += other.alive_s
        self.busy_s += other.busy_s
        self.full_s += other.full_s


class Takes(Protocol):
    """Whoever computes on a device."""

    def turn(self) -> None: ...

    def load(self) -> Load: ...


class Device:
    """Of one replica. `slowness`: by how much longer than their profiles say everything takes there, whatever anybody believes. `window`:
    of what is counted."""

    def __init__(self, noise: Noise, source: random.Random, window: tuple[float, float]) -> None:
        self.slowness = 1.0
        self.done = Done()
        self.window = window
        self._noise, self._source = noise, source
        self._holder: Takes | None = None
        self._line: deque[Takes] = deque()
        self._engines: list[Takes] = []

    def draw(self) -> float:
        return self._source.lognormvariate(0.0, self._noise.sigma) if self._noise.sigma else 1.0

    def has(self, engine: Takes) -> None:
        """One more stage is there."""
        self._engines.append(engine)

    def others_s(self, engine: Takes) -> list[float]:
        """How long each of the others has yet to do, had it the device alone."""
        return [other.load().seconds_ahead for other in self._engines if other is not engine]

    def take(self, engine: Takes) -> None:
        """It has its turn now, or after those that came before."""
        if self._holder is None:
            self._holder = engine
            engine.turn()
        elif engine not in self._line:
            self._line.append(engine)

    def pass_on(self, engine: Takes) -> None:
        """Its step has ended, and it may want another."""
        if self._line:
            self._line.append(engine)
            self._holder = engine = self._line.popleft()
        engine.turn()

    def leave(self) -> None:
        """The holder wants nothing now."""
        self._holder = self._line.popleft() if self._line else None
        if self._holder is not None:
            self._holder.turn()


class DeviceTime:
    """One stage's on a device. `speed`: as it really is."""

    def __init__(self, device: Device, speed: Speed) -> None:
        self._device, self._speed = device, speed
        self._factor = 1.0
        self._full: dict[float, float] = {}

    def draw(self) -> None:
        """Others share the next step."""
        self._factor = self._device.draw()

    def step_s(self, amount: float) -> float:
        return max(QUANTUM_S, quantized(self._speed.step_s(amount) * self._device.slowness * self._factor))

    def count(self, began: float, step_s: float, num_steps: int, amounts: Sequence[float]) -> None:
        """So many steps, from then on. `amounts`: what each row brings to one of them."""
        since, until = self._device.window
        within = min(began + num_steps * step_s, until) - max(began, since)
        if within > 0:
            self._device.done.busy_s += within
            self._device.done.full_s += within / step_s * sum(map(self._full_s, amounts))

    def _full_s(self, amount: float) -> float:
        """A row's part of a step that is full of rows that bring as much."""
        seconds = self._full.get(amount)
        if seconds is None:
            speed = self._speed
            rows = max(1.0, min(speed.max_rows, speed.max_amount / amount if amount else speed.max_rows))
            seconds = self._full[amount] = speed.step_s(rows * amount) / rows
        return seconds
