"""How fast a replica's device works, as far as it has been seen: the cost model (`stages/contract/cost.py`), corrected by what steps and
items took. Pure: whoever saw them says so.

Decides how much what was measured beforehand counts, and for how long. With a profile only one factor is learned, which also stands for
other processes that share the device; without one the line between a step's amount and its time. Beside that, how much work an item is
of which nobody said so, and by how much items miss what was expected of them. What each takes beside the device's time is learned apart,
from those that were alone: it doesn't multiply whole lines.
"""

import math
from dataclasses import dataclass

from stages.contract.cost import MARGIN_QUANTILE, Speed, StepTimes
from stages.contract.limits import BatchLimits
from stages.contract.work import Work
from stages.engine.scheduling.affine_time import AffineTime

HALF_LIFE_S = 120.0  # of computing
MAX_MISS = 10.0
"""A step that takes more times what was expected (it compiles, the machine slept) counts as one that takes so many."""
FIRST_MARGIN, MAX_MARGIN = 1.5, 20.0
MARGIN_GAIN = 0.1
FEW_STEPS = 10
"""From no more than so many no line is believed that one further step contradicts: they may all have compiled."""
SHORT_S = 0.2
"""An expectation that is shorter is missed only by what would miss one of so long."""
RECENT = 0.05  # how much the last item counts for what one usually asks, or takes beside the device's time


@dataclass(frozen=True, slots=True)
class MeasuredSteps:
    """By a profile of the stage on its device, or by an estimate from another device's."""

    times: StepTimes
    is_estimate: bool = False


@dataclass(slots=True)
class Misses:
    """What was expected against what it took, in sums of seconds. Of steps, and of items from submission to their ends."""

    step_expected_seconds_total: float = 0.0
    step_taken_seconds_total: float = 0.0
    step_error_seconds_total: float = 0.0
    finish_expected_seconds_total: float = 0.0
    finish_taken_seconds_total: float = 0.0
    finish_error_seconds_total: float = 0.0


class LearnedSpeed:
    """Of one stage in one replica. `max_amount`: more of the stage's own unit is in no step, whatever the limits say."""

    def __init__(self, *, is_one_shot: bool = False, max_amount: float = math.inf) -> None:
        self._is_one_shot, self._max_amount = is_one_shot, max_amount
        self._measured: MeasuredSteps | None = None
        self._line, self._num_drawn = AffineTime(HALF_LIFE_S), 0
        self._expected_s = self._taken_s = 0.0  # by the profile, and what it took; the older counts for less
        self._margin, self._beside_s = FIRST_MARGIN, 0.0
        self._usual_steps, self._usual_amount = 1.0, 1.0  # of an item, the amount in units of what it weighs
        self._times: StepTimes | None = None
        self.misses = Misses()

    def begin_with(self, measured: MeasuredSteps | None) -> None:
        """Before anything was observed. None: there is no profile."""
        self._measured = measured
        self._times = measured.times if measured is not None else None

    def observe(self, amount: float, seconds: float, *, times: int = 1) -> None:
        """A step of so much took so long; `times`: so many of them, one after another."""
        if amount <= 0:
            return
        if self._measured is not None:
            self._correct(self._measured.times.seconds(amount), seconds, times)
            return
        for _ in range(times):
            if self._times is not None:
                self._miss(self._factor * self._times.seconds(amount), seconds)
            self._draw_on(amount, seconds)

    def _miss(self, expected_s: float, seconds: float) -> None:
        misses = self.misses
        misses.step_expected_seconds_total += expected_s
        misses.step_taken_seconds_total += seconds
        misses.step_error_seconds_total += abs(seconds - expected_s)

    def _correct(self, by_profile_s: float, seconds: float, times: int) -> None:
        """The factor, by steps that the profile says take so long."""
        keep = 0.5 ** (by_profile_s / HALF_LIFE_S)
        for _ in range(times):
            expected_s = self._factor * by_profile_s
            self._miss(expected_s, seconds)
            most_s = MAX_MISS * expected_s
            self._expected_s = self._expected_s * keep + by_profile_s
            self._taken_s = self._taken_s * keep + (seconds if seconds < most_s else most_s)

    def _draw_on(self, amount: float, seconds: float) -> None:
        """The line, without a profile."""
        expected_s = self._times.seconds(amount) if self._times is not None else seconds
        if expected_s > MAX_MISS * seconds and self._num_drawn <= FEW_STEPS:
            self._line, self._num_drawn = AffineTime(HALF_LIFE_S), 0
        else:
            seconds = min(seconds, MAX_MISS * expected_s)
        self._num_drawn += 1
        self._line.observe(amount, seconds, age=seconds)
        self._times = self._line.step_times()

    def took(self, expected_s: float, seconds: float, *, was_alone: bool = False, is_typical: bool = True) -> None:
        """An item of which `expected_s` was expected when it came. `was_alone`: there was nothing else from its beginning to its end.
        `is_typical`: it found others, and nobody was to go before it who came later."""
        if expected_s <= 0:  # nothing was to be done
            return
        self.misses.finish_expected_seconds_total += expected_s
        self.misses.finish_taken_seconds_total += seconds
        self.misses.finish_error_seconds_total += abs(seconds - expected_s)
        if was_alone:
            most_s = MAX_MISS * max(expected_s, SHORT_S)
            self._beside_s += RECENT * (max(0.0, min(seconds, most_s) - expected_s) - self._beside_s)
        elif is_typical:
            self._learn_margin(expected_s, seconds - self._beside_s)

    def _learn_margin(self, expected_s: float, seconds: float) -> None:
        """It follows the quantile by small steps, up where it was missed and down where it was not (Robbins and Monro, 1951), in
        proportion. Never up past what was seen: many who came together miss alike, and are one sight of one thing."""
        ratio = seconds / max(expected_s, SHORT_S)
        if ratio > self._margin:
            self._margin = min(MAX_MARGIN, ratio, self._margin * math.exp(MARGIN_GAIN * MARGIN_QUANTILE))
        else:
            self._margin = max(1.0, self._margin * math.exp(MARGIN_GAIN * (MARGIN_QUANTILE - 1)))

    def asked(self, weight: float, did: Work) -> None:
        """An item that weighed so much, before it began, was so much work in the end."""
        if weight > 0:
            self._usual_amount += RECENT * (did.amount / weight - self._usual_amount)
        self._usual_steps += RECENT * (did.steps - self._usual_steps)

    def foreseen(self, weight: float, told: Work | None = None) -> Work:
        """What an item of that weight is supposed to be: what it weighs where that is all, else as it was told, or as others were."""
        if self._is_one_shot:
            return Work(weight, 1.0)
        return told if told is not None else Work(weight * self._usual_amount, self._usual_steps)

    def of(self, limits: BatchLimits) -> Speed | None:
        """With so much in a step at the most. None while nobody knows."""
        if self._times is None:
            return None
        return Speed(
            self._times,
            limits.max_items,
            min(limits.max_cost, self._max_amount),
            self._factor,
            self._measured is not None and self._measured.is_estimate,
            self._is_one_shot,
            self._margin,
            self._beside_s,
        )

    def more_s(self, amount: float) -> float | None:
        """That so much more takes in the long run. None while nobody knows."""
        return None if self._times is None else self._factor * self._times.more_s(amount)

    def metrics(self) -> dict[str, float]:
        """`speed_factor`: by how much longer than its profile says (1 where there is none)."""
        misses = {name: getattr(self.misses, name) for name in Misses.__slots__}
        return {**misses, "speed_factor": self._factor, "finish_margin": self._margin}

    @property
    def _factor(self) -> float:
        return self._taken_s / self._expected_s if self._expected_s > 0 else 1.0
