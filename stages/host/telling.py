"""What a host's stages tell whoever routes to them: made of an engine's load, of what became of its latest items, and of the names that are
at hand here.

Decides what counts as failing, and which names are told: the latest only, of a chain a few that stand for all of it. To be used on one
event loop; time is handed in. Knows no cache, but whether there is one: then what was made or found here a moment ago is supposed to be
here still.
"""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import count
from typing import Any

from stages.contract.engine import Engine
from stages.contract.errors import Broken, OutOfMemory, StageFailed
from stages.contract.item import Item
from stages.contract.news import StageNews, hint, sparse

MAX_HINTS = 256
RECENT = 0.2  # how much one item's end counts for how much of them fails
FORGIVEN_S = 30.0
"""A replica that is given nothing because it failed is half trusted again after so long."""


class Telling:
    """Of one stage. `remembers`: whether its results are kept here."""

    def __init__(self, engine: Engine[Any], replica: str, *, remembers: bool = True) -> None:
        self._engine, self._replica, self._remembers = engine, replica, remembers
        self._numbers = count(1)
        self._held: OrderedDict[int, None] = OrderedDict()
        self._holds: frozenset[int] | None = frozenset()
        self._failing, self._failed_at = 0.0, 0.0

    def began(self, item: Item[Any]) -> None:
        """It has what it needs, and what its stage makes of it from now on is at hand."""
        self._keep(sparse(item.hints.chain))
        self._keep(hint(recipe.name) for recipe in item.payload.needs())

    def ended(self, item: Item[Any], now: float, error: BaseException | None = None) -> None:
        """With its result, or so. What its request is to blame for is no failure of the replica."""
        failed = isinstance(error, (StageFailed, Broken)) and not isinstance(error, OutOfMemory)
        if error is None and item.name is not None and self._remembers:
            self._keep([hint(item.name)])
        if failed or error is None:
            self._failing = (1 - RECENT) * self._failing_at(now) + RECENT * failed
            self._failed_at = now

    def news(self, now: float) -> StageNews:
        load, identity = self._engine.load(), self._engine.identity
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

    def _keep(self, hints: Iterable[int]) -> None:
        for one in hints:
            if one not in self._held:
                self._holds = None
            self._held[one] = None
            self._held.move_to_end(one)
        while len(self._held) > MAX_HINTS:
            self._held.popitem(last=False)
