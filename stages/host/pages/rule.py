"""Fetch or compute: which pages of a beginning are worth fetching. Pure: time comes in as `now`.

What is fetched is what makes a beginning sooner there, by what has been seen of both ways: how long each tier takes for how many
bytes, and how long computing takes for how much work. What nobody knows is tried. What was slow once is tried again now and then, with
as little as will tell: nothing is judged for ever by one bad moment.

Knows no cache, no engine and no stage.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.contract.pages import PageRun
from stages.engine.scheduling.affine_time import AffineTime

HALF_LIFE = 32.0  # fetches
TRY_AGAIN_S = 30.0
QUICK_S = 0.05
"""What a fetch lacks that ends sooner was not there."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`names`: the pages to be fetched, in order. `fetch_s`: how long that is expected to take; None: nobody knows. `compute_s`: how
    long it takes to compute all that could be fetched; None likewise."""

    names: tuple[str, ...] = ()
    fetch_s: float | None = None
    compute_s: float | None = None


def within_reach(run: PageRun, held: Mapping[str, str]) -> tuple[str, ...]:
    """The pages that could be of use, of those `held` somewhere beyond what the stage holds: all up to the first gap, or, where each
    holds all, every one. `held`: the tiers, by pages' names."""
    beyond = run.names[run.num_resident :]
    if run.each_holds_all:
        return tuple(name for name in beyond if name in held)
    gap = next((index for index, name in enumerate(beyond) if name not in held), len(beyond))
    return beyond[:gap]


class FetchRule:
    """For one stage."""

    def __init__(self) -> None:
        self._tiers: dict[str, AffineTime] = {}
        self._seen_at: dict[str, float] = {}  # or tried

    def observe(self, tier: str, num_bytes: int, seconds: float, now: float, *, num_missing_bytes: int = 0) -> None:
        """So many bytes were fetched from there. About so many more were missing: where that took longer than fetching all of them is
        expected to, they were on their way, which takes at least so long."""
        num_wanted = num_bytes + num_missing_bytes
        if num_missing_bytes and seconds > max(QUICK_S, self.seconds_for(tier, num_wanted) or 0.0):
            num_bytes = num_wanted
        if not num_bytes:  # it was not there, which says nothing of the way
            return
        self._tiers.setdefault(tier, AffineTime(HALF_LIFE)).observe(num_bytes, seconds)
        self._seen_at[tier] = now

    def seconds_for(self, tier: str, num_bytes: float) -> float | None:
        """That fetching so much from there is expected to take. None while nobody knows."""
        known = self._tiers.get(tier)
        return None if known is None else known.seconds_for(num_bytes)

    def plan(self, run: PageRun, held: Mapping[str, str], page_s: float | None, now: float) -> Plan:
        """What to fetch of the pages `held`. `page_s`: how long computing what one page saves takes, where that is known."""
        names = within_reach(run, held)
        choices = self._choices(run, held, names)
        if not choices:
            return Plan()
        most = max(choice.num_saved for choice in choices)
        if page_s is None:
            return Plan(choices[-1].of(names), choices[-1].fetch_s, None)
        compute_s = most * page_s

        def finished_s(choice: _Choice) -> float:
            return (choice.fetch_s or 0.0) + (most - choice.num_saved) * page_s

        best = min(reversed(choices), key=finished_s)
        if finished_s(best) <= compute_s:
            return Plan(best.of(names), best.fetch_s, compute_s)
        return Plan(self._trial(choices, held, names, now), None, compute_s)

    def _choices(self, run: PageRun, held: Mapping[str, str], names: Sequence[str]) -> "list[_Choice]":
        """All that could be fetched, the least first. `names`: within reach."""
        if run.each_holds_all:
            places = {name: place for place, name in enumerate(run.names[run.num_resident :], 1)}
            return [
                _Choice(index, index + 1, places[name], self._fetch_s({held[name]: run.num_bytes}))
                for index, name in enumerate(names)
            ]
        choices, num_bytes = [], Counter[str]()
        for count, name in enumerate(names, 1):
            num_bytes[held[name]] += run.num_bytes
            choices.append(_Choice(0, count, count, self._fetch_s(num_bytes)))
        return choices

    def _fetch_s(self, num_bytes: Mapping[str, int]) -> float | None:
        """From all tiers, by how much from which. None where nobody knows how long one of them takes."""
        seconds = [self.seconds_for(tier, amount) for tier, amount in num_bytes.items()]
        known = [one for one in seconds if one is not None]
        return math.fsum(known) if len(known) == len(seconds) else None

    def _trial(
        self, choices: "Sequence[_Choice]", held: Mapping[str, str], names: tuple[str, ...], now: float
    ) -> tuple[str, ...]:
        """The least that tells of a tier of which nothing was heard for long."""
        for choice in choices:
            tier = held[names[choice.end - 1]]
            if now - self._seen_at.get(tier, -math.inf) >= TRY_AGAIN_S:
                self._seen_at[tier] = now
                return choice.of(names)
        return ()


@dataclass(frozen=True, slots=True)
class _Choice:
    """Of the names within reach those from `begin` up to `end`. `num_saved`: of the pages beyond what the stage holds, how many need not
    be computed then."""

    begin: int
    end: int
    num_saved: int
    fetch_s: float | None

    def of(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return names[self.begin : self.end]
