"""Who holds what: replicas by the hints of what they tell is at hand there, and since when what this process sent there begins so.

Decides which of an item's beginnings counts at a replica: the longest that it holds, or is computing: whoever begins alike waits for that,
and copies. How long the wait is, `expected.py` says. Looked up once for an item, whoever its candidates are. Pure.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines.routing.candidate import Candidate
from stages.contract.news import Hints


@dataclass(frozen=True, slots=True)
class Held:
    """Of one item. `beginnings`: how many times `Hints.each` it is, who holds it, and when what begins so was sent to whom, the earliest
    first; the longest first. `parts`: of each result that it needs, who holds that."""

    beginnings: tuple[tuple[int, Collection[Candidate], Mapping[Candidate, Sequence[float]]], ...] = ()
    parts: tuple[Collection[Candidate], ...] = ()

    def length_at(self, candidate: Candidate) -> int:
        return self.at(candidate)[0]

    def at(self, candidate: Candidate) -> tuple[int, float | None]:
        """How long a beginning it holds, and when the first was sent there that begins so and has not ended (None: there is none)."""
        for length, holders, begun in self.beginnings:
            if candidate in begun:
                return length, begun[candidate][0]
            if candidate in holders:
                return length, None
        return 0, None

    def num_parts_at(self, candidate: Candidate) -> int:
        return sum(candidate in holders for holders in self.parts)

    def holders(self) -> Iterator[Candidate]:
        """Of the longest beginnings first. May repeat."""
        for _, holders, begun in self.beginnings:
            yield from holders
            yield from begun
        for each in self.parts:
            yield from each


NOTHING_HELD = Held()
NOBODY: Collection[Candidate] = ()
NONE_BEGUN: Mapping[Candidate, Sequence[float]] = {}


class Holders:
    """Of one stage."""

    def __init__(self) -> None:
        self._by_hint: dict[int, dict[Candidate, None]] = {}  # in the order that they told, the same in every run
        self._begun: dict[int, dict[Candidate, list[float]]] = {}  # and when what begins so was sent there

    def holds(self, candidate: Candidate, before: Collection[int], after: Collection[int]) -> None:
        """What it held, and what it holds from now on."""
        if before == after:
            return
        before, after = frozenset(before), frozenset(after)
        for hint in before - after:
            holders = self._by_hint[hint]
            del holders[candidate]
            if not holders:
                del self._by_hint[hint]
        for hint in after - before:
            self._by_hint.setdefault(hint, {})[candidate] = None

    def begins(self, candidate: Candidate, chain: Sequence[int], now: float) -> None:
        """Something that begins so is there, or on its way. To be ended with `ends`, of the same `now`."""
        for hint in chain:
            self._begun.setdefault(hint, {}).setdefault(candidate, []).append(now)

    def ends(self, candidate: Candidate, chain: Sequence[int], begun_at: float) -> None:
        for hint in chain:
            there = self._begun[hint]
            there[candidate].remove(begun_at)
            if not there[candidate]:
                del there[candidate]
                if not there:
                    del self._begun[hint]

    def of(self, hints: Hints) -> Held:
        known, begun, chain = self._by_hint, self._begun, hints.chain
        if known.keys().isdisjoint((*chain, *hints.parts)) and begun.keys().isdisjoint(chain):
            return NOTHING_HELD
        beginnings = [
            (hints.length(place), known.get(held, NOBODY), begun.get(held, NONE_BEGUN))
            for place, held in enumerate(chain)
            if held in known or held in begun
        ]
        return Held(tuple(reversed(beginnings)), tuple(known[part] for part in hints.parts if part in known))
