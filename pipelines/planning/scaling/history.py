"""What arrived at a stage of late, and how much of a change in it can be chance.

Decides what counts as evidence: a rate's bounds at so many standard deviations, where arrivals may be more clumped than independent ones
(their variance over their mean is measured), and that a rate has to last: one clump of items is something to drain, no rate. Pure.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log2, sqrt

from stages.contract.work import NO_WORK, Work

SUSTAINED = 0.1  # of what came later beyond the usual, so much came earlier, too
MAX_DISPERSION = 25.0
FEWEST_SAMPLES, MOST_SAMPLES = 8, 64
LESS_TWICE_AS_LONG = 0.25  # standard deviations
LEFT_OUT = 16  # of so many squares the largest
WITHOUT_THEM = 0.72  # of the mean of normal deviates' squares remains without the largest 1/16 of them
_EARLY_S = 1e-6  # by how much a decision may come too early


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` items in `seconds`."""

    count: float
    seconds: float
    dispersion: float = 1.0

    @property
    def mean(self) -> float:
        return self.count / self.seconds if self.seconds > 0 else 0.0

    def lower(self, deviations: float) -> float:
        return max(0.0, self._bound(-deviations))

    def upper(self, deviations: float) -> float:
        return self._bound(deviations)

    def _bound(self, deviations: float) -> float:
        return (self.count + deviations * sqrt(self.dispersion * self.count)) / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Mark:
    """Totals up to a decision. `items`: each counts by its work, as so many of the usual ones; `in_hand`: then."""

    at: float
    items: float
    left: float
    in_hand: int


@dataclass(frozen=True, slots=True)
class History:
    """Of one stage, over all its pools. `marks`: oldest first. `item`: the work of a usual one. `busy_at`: when there last was anything
    to do. `dispersion`: variance over mean of what came in a period."""

    marks: tuple[Mark, ...]
    item: Work = NO_WORK
    busy_at: float = 0.0
    dispersion: float = 1.0

    @classmethod
    def begun(cls, now: float, period_s: float) -> "History":
        return cls((Mark(now - period_s, 0.0, 0.0, 0),), busy_at=now)

    def noted(self, arriving: float, work: Work, leaving: float, in_hand: int, now: float, keep_s: float) -> "History":
        """After one more period in which items came at these rates."""
        last = self.marks[-1]
        seconds = max(0.0, now - last.at)
        item = self._item(arriving, work, seconds)
        usual = work.amount / item.amount if item.amount > 0 and work.amount > 0 else arriving
        mark = Mark(now, last.items + usual * seconds, last.left + leaving * seconds, in_hand)
        kept = bisect_right(self.marks, now - keep_s, key=lambda mark: mark.at)
        marks = (*self.marks[max(0, kept - 1) :], mark)
        busy_at = now if arriving > 0 or in_hand > 0 else self.busy_at
        return History(marks, item, busy_at, _dispersion(marks))

    def _item(self, arriving: float, work: Work, seconds: float) -> Work:
        """The latest ones count as much as some hundred before them."""
        if arriving <= 0 or work.amount <= 0:
            return self.item
        newest = work * (1 / arriving)
        if self.item.amount <= 0:
            return newest
        part = min(1.0, arriving * seconds / 100)
        return self.item * (1 - part) + newest * part

    def supposing(self, item: Work) -> "History":
        return self if self.item.amount > 0 else replace(self, item=item)

    @property
    def began_at(self) -> float:
        return self.marks[0].at

    @property
    def usual_rate(self) -> float:
        """Items a second, in all the time that is known, with what was there at its beginning and is not done yet: what few seconds say of
        stages beside each other is chance."""
        first, last = self.marks[0], self.marks[-1]
        return (last.items - first.items + last.in_hand) / (last.at - first.at) if last.at > first.at else 0.0

    def rate(self, from_s: float, to_s: float = 0.0) -> Rate:
        """Of arrivals, between so and so many seconds ago; as far as that is known."""
        begin, end = self._mark(from_s), self._mark(to_s)
        return Rate(end.items - begin.items, end.at - begin.at, self.dispersion)

    def leaving(self, seconds: float) -> float:
        begin, end = self._mark(seconds), self.marks[-1]
        return (end.left - begin.left) / (end.at - begin.at) if end.at > begin.at else 0.0

    def in_hand(self, seconds: float) -> Sequence[int]:
        """At every decision since then."""
        since = self.marks[-1].at - seconds - _EARLY_S
        return [mark.in_hand for mark in self.marks if mark.at >= since] or [self.marks[-1].in_hand]

    def rises(self, windows: Sequence[float], deviations: float, beyond: float) -> float | None:
        """The rate that arrivals have risen to, where one of the windows (seconds, the shortest first) shows that they are more than
        `beyond`. `deviations`: by which the shortest has to."""
        found = [self._risen_to(each, certainty(each, windows[0], deviations), beyond) for each in windows]
        return max((rate for rate in found if rate is not None), default=None)

    def _risen_to(self, window: float, deviations: float, beyond: float) -> float | None:
        if self.marks[-1].at - window < self.began_at - _EARLY_S:
            return None
        earlier, later = self.rate(window, window / 2), self.rate(window / 2)
        if later.lower(deviations) <= beyond:
            return None
        usual = min(self.rate(2 * window, window).mean, beyond)
        lasts = earlier.mean - usual >= SUSTAINED * (later.mean - usual)
        return later.mean if lasts else None

    def steady(self, window: float) -> float:
        """What came in both halves of it."""
        return min(self.rate(window, window / 2).mean, self.rate(window / 2).mean)

    def _mark(self, seconds_ago: float) -> Mark:
        """The one next to that moment."""
        at = self.marks[-1].at - seconds_ago
        index = bisect_right(self.marks, at, key=lambda mark: mark.at)
        near = self.marks[max(0, index - 1) : index + 1]
        return min(near, key=lambda mark: abs(mark.at - at))


def certainty(window: float, shortest: float, deviations: float) -> float:
    """Standard deviations by which a window must show something, where the shortest must by so many: the longer, the seldomer another one
    is looked at, and chance has as many fewer turns."""
    return deviations - LESS_TWICE_AS_LONG * log2(max(1.0, window / shortest))


def _dispersion(marks: Sequence[Mark]) -> float:
    """From differences between neighbours, which a change of the rate leaves alone, and without the largest few, which are such changes."""
    if len(marks) <= FEWEST_SAMPLES:
        return 1.0
    came = [after.items - before.items for before, after in pairwise(marks[-MOST_SAMPLES:])]
    mean = sum(came) / len(came)
    squares = sorted((after - before) ** 2 for before, after in pairwise(came))
    kept = squares[: max(1, len(squares) - len(squares) // LEFT_OUT)]
    part = WITHOUT_THEM if len(kept) < len(squares) else 1.0
    return min(MAX_DISPERSION, max(1.0, sum(kept) / len(kept) / part / 2 / mean)) if mean > 0 else 1.0
