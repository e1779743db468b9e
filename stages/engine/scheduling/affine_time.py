"""How long something takes that takes some time at all, and more for more of it, as far as it has been seen. Pure.

Least squares over what was seen, the older counting for less: of two heaps of sightings (steps that answer and steps that read a
prompt) the slope is that between their means, however many lie in each. Knows no unit but the ones that it is told.
"""

from stages.contract.cost import StepTimes

MIN_SPREAD = 0.1
"""Sightings whose amounts differ by less than this part of their mean say nothing of the slope."""


LEAST = 1e-9
"""Of the mean amount, or seconds: `StepTimes` knows nothing that takes no time at all."""


class AffineTime:
    """`half_life`: in whatever `age` counts, what was seen so long ago counts half."""

    def __init__(self, half_life: float) -> None:
        self._half_life = half_life
        self._count = self._amount = self._seconds = self._squares = self._products = 0.0

    def observe(self, amount: float, seconds: float, age: float = 1.0) -> None:
        """So much took so long. `age`: by how much all that was seen before gets older."""
        keep = 0.5 ** (age / self._half_life)
        self._count = self._count * keep + 1
        self._amount = self._amount * keep + amount
        self._seconds = self._seconds * keep + seconds
        self._squares = self._squares * keep + amount * amount
        self._products = self._products * keep + amount * seconds

    def more(self, amount: float) -> float | None:
        """Seconds that so much more would take. None while nothing has been seen."""
        line = self._line()
        return None if line is None else line[1] * amount

    def seconds_for(self, amount: float) -> float | None:
        """Seconds that so much takes. None while nothing has been seen."""
        line = self._line()
        return None if line is None else line[0] + line[1] * amount

    def on_average(self, amount: float) -> float | None:
        """Seconds that so much took, whatever it was seen beside. None while nothing has been seen."""
        return amount * self._seconds / self._amount if self._amount > 0 else None

    def step_times(self) -> StepTimes | None:
        """The line. None while nothing has been seen."""
        line = self._line()
        if line is None:
            return None
        (base, slope), mean = line, self._amount / self._count
        least = LEAST * self._seconds / self._count or LEAST
        return StepTimes(((LEAST * mean, max(least, base)), (mean, max(2 * least, base + slope * mean))))

    def _line(self) -> tuple[float, float] | None:
        """Seconds for nothing, and for each unit. Where more took no longer, or less, it is all for nothing; where nothing would take
        less than none, or nothing tells the two apart, the line through the origin."""
        if self._squares <= 0:
            return None
        mean, seconds = self._amount / self._count, self._seconds / self._count
        variance = self._squares / self._count - mean * mean
        if variance > (MIN_SPREAD * mean) ** 2:
            slope = (self._products / self._count - mean * seconds) / variance
            if slope * mean <= seconds:
                return seconds - max(slope, 0.0) * mean, max(slope, 0.0)
        return 0.0, self._products / self._squares
