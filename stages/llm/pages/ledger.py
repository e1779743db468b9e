"""Which pages lie in which slot, how often each was seen, and which are still to be remembered.

Decides what is worth handing over: a page that was asked for, or made, at least twice; and where nothing else is to be done, any. A
page that was handed over, or was brought from where it is remembered, is not handed over again, unless it had to be made again since:
then nobody remembers it. That is believed for a while only, for what is remembered may get lost: what is asked for later, and lies in a
slot, is handed over once more. Pure but for the time; knows names, and neither keys nor values.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

MAX_SEEN = 65_536
"""Names whose fate is known; those heard of longest ago are forgotten first."""

SEEN_OFTEN = 2

BELIEVED_S = 600.0
"""How long what was handed over, or found, is taken to be remembered."""


@dataclass(slots=True)
class _Fate:
    num_seen: int = 0
    remembered_at: float = -math.inf  # handed over then, or found


@dataclass(frozen=True, slots=True)
class LyingPage:
    """The page of this name is the `number`th of `slot`, counted from 0."""

    name: str
    slot: int
    number: int


class PageLedger:
    """On one thread. `clock`: seconds."""

    def __init__(self, max_seen: int = MAX_SEEN, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_seen, self._clock = max_seen, clock
        self._fates: OrderedDict[str, _Fate] = OrderedDict()
        self._held: dict[int, list[str]] = {}  # by slot, the names of its first pages
        self._lying: dict[str, dict[int, int]] = {}  # by name, in which slots, and the how manieth there
        self._often: dict[str, None] = {}  # what is to be handed over, in the order in which it came
        self._once: dict[str, None] = {}

    def ask(self, names: Sequence[str]) -> None:
        """A newcomer's text has these pages."""
        for name in names:
            fate = self._fate(name)
            fate.num_seen += 1
            if fate.num_seen >= SEEN_OFTEN and name in self._once:
                del self._once[name]
            if name in self._lying:
                self._await_leaving(name, fate)

    def give(self, names: Sequence[str]) -> None:
        """These were found where pages are remembered."""
        for name in names:
            self._fate(name).remembered_at = self._clock()
            self._often.pop(name, None)
            self._once.pop(name, None)

    def lose(self, name: str) -> None:
        """It was handed over, and is not remembered."""
        fate = self._fates.get(name)
        if fate is not None:
            fate.remembered_at = -math.inf

    def hold(self, slot: int, names: Sequence[str], num_found: int) -> None:
        """These are the slot's first pages, and sound; all but the first `num_found` of them were made there. Whatever was known to lie
        in the slot is among them."""
        held = self._held.setdefault(slot, [])
        for number in range(len(held), len(names)):
            name = names[number]
            fate, lying = self._fate(name), self._lying.setdefault(name, {})
            fate.num_seen = max(fate.num_seen, 1)
            if number >= num_found and not lying:
                fate.remembered_at = -math.inf
            lying[slot] = number
            held.append(name)
            self._await_leaving(name, fate)

    def let_go(self, slot: int) -> None:
        """Nothing lies in the slot any more."""
        for name in self._held.pop(slot, ()):
            lying = self._lying[name]
            del lying[slot]
            if not lying:
                del self._lying[name]
                self._often.pop(name, None)
                self._once.pop(name, None)

    def num_held(self, slot: int) -> int:
        return len(self._held.get(slot, ()))

    def last_chance(self, slot: int, num_kept: int) -> Iterator[LyingPage]:
        """Pages seen often, still to be handed over, that lie in this slot alone, beyond its first `num_kept`. They count as handed over
        one by one, as they are taken."""
        for number, name in enumerate(self._held.get(slot, ())):
            if number >= num_kept and name in self._often and len(self._lying[name]) == 1:
                yield self._taken(name)

    def has_next(self, *, idle: bool) -> bool:
        return bool(self._often) or (idle and bool(self._once))

    def next(self, *, idle: bool) -> LyingPage | None:
        """What is to be handed over next, and counts as handed over from now on. `idle`: also what was seen only once."""
        for waiting in (self._often, self._once) if idle else (self._often,):
            if waiting:
                return self._taken(next(iter(waiting)))
        return None

    def check_integrity(self) -> None:
        """Raises RuntimeError where the ledger contradicts itself."""
        lying = {(name, slot, number) for name, slots in self._lying.items() for slot, number in slots.items()}
        held = {(name, slot, number) for slot, names in self._held.items() for number, name in enumerate(names)}
        waiting = [*self._often, *self._once]
        if lying != held or len(waiting) != len({*waiting}) or not {*waiting} <= self._lying.keys():
            raise RuntimeError("the page ledger contradicts itself")

    def _taken(self, name: str) -> LyingPage:
        self._often.pop(name, None)
        self._once.pop(name, None)
        self._fate(name).remembered_at = self._clock()
        slot, number = next(iter(self._lying[name].items()))
        return LyingPage(name, slot, number)

    def _await_leaving(self, name: str, fate: _Fate) -> None:
        """It lies in a slot. Without effect where it is remembered, or awaits that already."""
        is_remembered = self._clock() - fate.remembered_at < BELIEVED_S
        if not is_remembered and name not in self._often and name not in self._once:
            (self._often if fate.num_seen >= SEEN_OFTEN else self._once)[name] = None

    def _fate(self, name: str) -> _Fate:
        fate = self._fates.get(name)
        if fate is None:
            fate = self._fates[name] = _Fate()
            if len(self._fates) > self._max_seen:
                self._fates.popitem(last=False)
        else:
            self._fates.move_to_end(name)
        return fate
