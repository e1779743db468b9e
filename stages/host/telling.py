"""What a host's stages tell whoever routes to them: made of an engine's load, of what became of its latest items, and of the names that are
at hand here.

Decides what counts as failing, and which names are told: the latest only, of a chain a few that stand for all of it; and for how long what
has been here is believed to be here: until it is looked for in memory, which is done every second. To be used on one event loop; time is
handed in. Knows no cache.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

from stages.contract.engine import Engine
from stages.contract.errors import Broken, OutOfMemory, StageFailed
from stages.contract.item import Item
from stages.contract.news import StageNews, hint, sparse

MAX_HINTS = 256
LOOKED_FOR_S = 1.0
"""So often, and no sooner after it was noted: what was just made may be on its way to memory."""
RECENT = 0.2  # how much one item's end counts for how much of them fails
FORGIVEN_S = 30.0
"""A replica that is given nothing because it failed is half trusted again after so long."""


class Memory(Protocol):
    """Implemented by `stages/host/at_hand.py`."""

    def keys_of(self, stage: str, name: str) -> Sequence[str]:
        """Under which a result of that stage may be remembered."""
        ...

    def of(self, keys: Sequence[str]) -> Collection[str]:
        """Those that are at hand."""
        ...


@dataclass(frozen=True, slots=True)
class _Noted:
    """`keys`: it is here as long as one of them is in memory (none: for as long as nothing newer takes its place)."""

    at: float
    keys: Sequence[str] = ()


class Telling:
    """Of one stage."""

    def __init__(self, engine: Engine[Any], replica: str, memory: Memory) -> None:
        self._engine, self._replica, self._memory = engine, replica, memory
        self._numbers = count(1)
        self._held: OrderedDict[int, _Noted] = OrderedDict()
        self._holds: frozenset[int] | None = frozenset()
        self._looked_at = 0.0
        self._failing, self._failed_at = 0.0, 0.0

    def began(self, item: Item[Any], now: float) -> None:
        """It has what it needs, and what its stage makes of it from now on is at hand. Pages that have names are told once they are."""
        if not item.hints.is_kept_by_name:
            self._keep({one: _Noted(now) for one in sparse(item.hints.chain)})
        for recipe in item.payload.needs():
            self._keep_result(recipe.stage, recipe.name, now)

    def kept(self, pages: Mapping[str, str], now: float) -> None:
        """These pages are in memory. By name, the key of each."""
        self._keep({hint(name): _Noted(now, (key,)) for name, key in pages.items()})

    def ended(self, item: Item[Any], now: float, error: BaseException | None = None) -> None:
        """With its result, or so. What its request is to blame for is no failure of the replica."""
        failed = isinstance(error, (StageFailed, Broken)) and not isinstance(error, OutOfMemory)
        if error is None and item.name is not None:
            self._keep_result(self._engine.identity.stage, item.name, now)
        if failed or error is None:
            self._failing = (1 - RECENT) * self._failing_at(now) + RECENT * failed
            self._failed_at = now

    def news(self, now: float) -> StageNews:
        load, identity = self._engine.load(), self._engine.identity
        if now - self._looked_at >= LOOKED_FOR_S:
            self._look(now)
        if self._holds is None:
            self._holds = frozenset(self._held)
        return StageNews(
            stage=identity.stage,
            replica=self._replica,
            device=identity.model or identity.device,
            dtype=identity.dtype,
            speed=load.speed,
            outstanding=load.outstanding,
            num_items=load.num_items,
            later=load.later,
            num_later=load.num_later,
            tenants=load.told_tenants(),
            failing=self._failing_at(now),
            holds=self._holds,
            arrived=load.arrived,
            num_arrived=load.num_arrived,
            num_left=load.num_left,
            number=next(self._numbers),
        )

    def _failing_at(self, now: float) -> float:
        """Rounded, so that what has long been forgiven is no news."""
        return round(self._failing * 0.5 ** ((now - self._failed_at) / FORGIVEN_S), 2)

    def _look(self, now: float) -> None:
        """What is in memory no more is told no more."""
        self._looked_at = now
        noted = [(one, each.keys) for one, each in self._held.items() if each.keys and now - each.at >= LOOKED_FOR_S]
        found = self._memory.of([key for _, keys in noted for key in keys]) if noted else ()
        for one, keys in noted:
            if not any(key in found for key in keys):
                del self._held[one]
                self._holds = None

    def _keep_result(self, stage: str, name: str, now: float) -> None:
        if keys := self._memory.keys_of(stage, name):
            self._keep({hint(name): _Noted(now, keys)})

    def _keep(self, noted: Mapping[int, _Noted]) -> None:
        for one, each in noted.items():
            if one not in self._held:
                self._holds = None
            self._held[one] = each
            self._held.move_to_end(one)
        while len(self._held) > MAX_HINTS:
            self._held.popitem(last=False)
