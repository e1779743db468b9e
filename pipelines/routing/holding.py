"""Who holds what: replicas by the hints of what they tell is at hand there, or what was sent there and begins so.

Decides which of an item's beginnings counts at a replica: the longest that it holds. What is still computed there counts as well: whoever
begins alike waits for it and copies, and the line tells how long that takes. Looked up once for an item, whoever its candidates are. Pure;
knows no times.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines.routing.candidate import Candidate
from stages.contract.news import Hints


@dataclass(frozen=True, slots=True)
class Held:
    """Of one item. `beginnings`: how many times `Hints.each` it is, and who holds it; the longest first. `parts`: of each result that it
    needs, who holds that."""

    beginnings: tuple[tuple[int, Collection[Candidate]], ...] = ()
    parts: tuple[Collection[Candidate], ...] = ()

    def length_at(self, candidate: Candidate) -> int:
        for length, holders in self.beginnings:
            if candidate in holders:
                return length
        return 0

    def num_parts_at(self, candidate: Candidate) -> int:
        return sum(candidate in holders for holders in self.parts)

    def holders(self) -> Iterator[Candidate]:
        """Of the longest beginnings first. May repeat."""
        for _, holders in self.beginnings:
            yield from holders
        for each in self.parts:
            yield from each


NOTHING_HELD = Held()


class Holders:
    """Of one stage."""

    def __init__(self) -> None:
        self._by_hint: dict[int, dict[Candidate, None]] = {}  # in the order that they told, the same in every run
        self._begun: dict[int, dict[Candidate, int]] = {}  # and how many of what was sent there begin so

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

    def begins(self, candidate: Candidate, chain: Sequence[int]) -> None:
        """Something that begins so is there, or on its way. To be ended with `ends`."""
        for hint in chain:
            there = self._begun.setdefault(hint, {})
            there[candidate] = there.get(candidate, 0) + 1

    def ends(self, candidate: Candidate, chain: Sequence[int]) -> None:
        for hint in chain:
            there = self._begun[hint]
            there[candidate] -= 1
            if not there[candidate]:
                del there[candidate]
                if not there:
                    del self._begun[hint]

    def of(self, hints: Hints) -> Held:
        known, begun, chain = self._by_hint, self._begun, hints.chain
        if known.keys().isdisjoint((*chain, *hints.parts)) and begun.keys().isdisjoint(chain):
            return NOTHING_HELD
        beginnings = [
            (hints.length(place), _both(known.get(held, NOBODY), begun.get(held, NOBODY)))
            for place, held in enumerate(chain)
            if held in known or held in begun
        ]
        return Held(tuple(reversed(beginnings)), tuple(known[part] for part in hints.parts if part in known))


NOBODY: Mapping[Candidate, object] = {}


def _both(told: Mapping[Candidate, object], begun: Mapping[Candidate, object]) -> Collection[Candidate]:
    """Who told first."""
    return {**told, **begun} if told and begun else told or begun
