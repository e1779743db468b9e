"""What each stage needs: when the evidence asks for more, how much then, and what must not fall away.

Decides by what arrives (with its chance bounds), by what waits beyond the running batches, and by what is on its way from stages before
it. Callers who wait for their answers before they ask again never make more arrive than is done: there a line that stands tells. Pure;
knows no pools' numbers and no budget. Capacities are items a second with full batches; of a stage whose speed nobody knows, items in hand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt

from pipelines.planning.scaling.history import History, Rate, certainty
from pipelines.planning.scaling.pool_state import Scaling

PERIODS = (2, 4, 8, 16, 32, 64)
"""Windows that a risen rate is looked for in: a burst shows in the shortest, a slow rise beyond what is chance in the longest."""
LATELY = 16
"""Periods, for what comes now."""
LONGER = 4
"""Where few items came, what is let go of is judged by up to so many times as long."""
LITTLE = 1e-9
"""A capacity that is more than nothing: one replica."""
_FEW = 50
_SURELY = 2.0
"""Standard deviations, for what a single look at it does not decide."""
_TO_FALL = 4.0
"""For what is let go of: what goes by chance comes back by chance."""
_MARGIN = 0.1
_RARELY = 1e-3
"""So much of the time a line that chance alone makes may be longer than what is taken for chance."""
_LASTS = 2.0
"""A line that was there at every look for so many times what one takes to forget how long it was is no chance."""


@dataclass(frozen=True, slots=True)
class Line:
    """What stands before a stage. `waiting`: items beyond the running batches, which have room for `rows`, to be done in `drain_s`;
    `incoming`: what will come beyond what comes already, from stages before it, a second."""

    waiting: float = 0.0
    drain_s: float = 1.0
    incoming: float = 0.0
    rows: float = 0.0

    @property
    def drains(self) -> float:
        """Items a second."""
        return self.waiting / self.drain_s


@dataclass(frozen=True, slots=True)
class Need:
    """Of one stage. `more`: the capacity that there should be, where the evidence asks for more than there is; None: it doesn't. `usual`:
    the capacity for what comes on average. `delivers`: what leaves it soon, a second. `is_awake`: there is something to do."""

    history: History
    more: float | None
    usual: float
    is_awake: bool
    delivers: float = 0.0
    line: Line = Line()
    by_items: bool = False

    def least(self, settings: Scaling, down_after_s: float, now: float) -> float | None:
        """The capacity that must stay, by what was seen for so long; None: not seen for so long yet."""
        if self.history.began_at > now - down_after_s + settings.period_s / 2:
            return None
        if self.by_items:
            return float(max(self.history.in_hand(down_after_s)))
        quarter = down_after_s / 4
        surges = [self.history.rate(ago + quarter, ago).lower(_SURELY) for ago in (0, quarter, 2 * quarter, 3 * quarter)]
        comes = self.line.incoming + max(*surges, self._counted(down_after_s).upper(_TO_FALL))
        return max(comes / settings.target_utilisation / (1 - _MARGIN), comes + self.line.drains)

    def _counted(self, seconds: float) -> Rate:
        """Over so long, or longer where few items came: of few, a pause tells nothing."""
        found = self.history.rate(seconds)
        for times in range(2, LONGER + 1):
            if found.count >= _FEW:
                break
            found = self.history.rate(times * seconds)
        return found


def need(history: History, capacity: float, attainable: float, line: Line, settings: Scaling, up_after_s: float) -> Need:
    """Of a stage whose speed is known. `capacity`: what the replicas that are decided on do, all running; `attainable`: what as many as
    there may be would do. `up_after_s`: how long more must have come."""
    windows = [periods * settings.period_s for periods in PERIODS]
    beyond = max(0.0, settings.most_utilisation * capacity - line.incoming)
    risen = history.rises([each for each in windows if each >= up_after_s] or [up_after_s], settings.certainty, beyond)
    lately, steady = history.rate(LATELY * settings.period_s), history.steady(LATELY * settings.period_s)
    comes = max(steady, risen or 0.0)
    awake = is_awake(history, settings) or line.incoming > 0
    asked = [LITTLE] if capacity <= 0 and awake else []
    surely = risen is not None or lately.lower(certainty(LATELY * settings.period_s, windows[0], settings.certainty)) > beyond
    if surely and (capacity > 0 or awake):  # what sleeps is not woken by what came before
        asked.append((comes + line.incoming) / settings.target_utilisation)
    beyond_chance = line.drains - _by_chance(history, capacity, line, settings) / line.drain_s
    if beyond_chance > 0 and lately.lower(_SURELY) + line.incoming + beyond_chance > capacity:
        asked.append(comes + line.incoming + line.drains)
    if line.waiting > 0 and _stands(history, capacity, line, settings):
        asked.append((max(comes, lately.mean) + line.incoming) / settings.target_utilisation)
    more = max(asked, default=None)
    return Need(
        history,
        more,
        usual=(lately.mean + line.incoming) / settings.target_utilisation,
        is_awake=awake,
        delivers=min(max(capacity, min(more or 0.0, attainable)), comes + line.drains),
        line=line,
    )


def _by_chance(history: History, capacity: float, line: Line, settings: Scaling) -> float:
    """Items that may well wait with no more coming than usual: a line's length is exponential in heavy traffic, its mean by how clumped
    arrivals are and how near they are to the capacity (Kingman, 1962). At most what the replicas do in the time that it may take."""
    if history.marks[-1].at - history.began_at < LATELY * settings.period_s or capacity <= 0:
        return 0.0
    busy = min(settings.most_utilisation, history.usual_rate / capacity)
    mean = history.dispersion / (2 * (1 - busy))
    return min(capacity * line.drain_s, mean * -log(_RARELY))


def _stands(history: History, capacity: float, line: Line, settings: Scaling) -> bool:
    """Whether more items were there at every look than the running batches have room for, for longer than chance keeps a line from
    running dry. It forgets how long it was in the time that a queue takes to settle (Abate and Whitt, 1987: relaxation time), here of
    one that is as busy as it may be. Callers who ask again when they have their answers never are more than the replicas do."""
    if capacity <= 0:
        return False
    settles_s = history.dispersion / (capacity * (1 - sqrt(settings.most_utilisation)) ** 2)
    window = max(LATELY * settings.period_s, _LASTS * settles_s)
    return history.began_at <= history.marks[-1].at - window and min(history.in_hand(window)) > line.rows


def need_by_items(history: History, capacity: float, running: float, settings: Scaling, up_after_s: float) -> Need:
    """Of a stage whose speed nobody knows: so many items in hand are a replica's part. At most twice the capacity that is `running`: what
    those that come do will be known by then."""
    lately, awake = history.in_hand(max(up_after_s, 2 * settings.period_s)), is_awake(history, settings)
    more = min(float(min(lately)), 2 * running)
    asked = [more] if more > capacity else []
    if capacity <= 0 and awake:
        asked.append(LITTLE)
    return Need(history, max(asked, default=None), sum(lately) / len(lately), awake, by_items=True)


def is_awake(history: History, settings: Scaling) -> bool:
    return history.marks[-1].in_hand > 0 or history.rate(settings.period_s).count > 0


def incoming_rate(feeds: Sequence[tuple[str, float]], needs: Mapping[str, Need], settings: Scaling) -> float:
    """What stages before this one will deliver beyond what they deliver already. `feeds`: stage, and how many items come here for each of
    its own."""
    total = 0.0
    for stage, items in feeds:
        before = needs.get(stage)
        if before is not None and not before.by_items:
            leaving = max(before.history.leaving(periods * settings.period_s) for periods in PERIODS[1:])
            total += items * max(0.0, before.delivers - leaving)
    return total
