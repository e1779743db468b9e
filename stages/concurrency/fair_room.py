"""Room for what is held for a while (bytes, pixels): who gets some of it next, fair between tenants. Pure.

Who yields goes behind everybody else. Of those who wait, whoever's tenant holds least goes first; of one tenant, who came first. Whoever is
next waits for enough room and nobody goes before, so what is large comes to its turn. Where room is shared, no tenant takes more
than what it leaves to the others (dynamic thresholds: Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet
switches", 1998), but the largest single thing always.

Knows neither what is held nor how its owner waits. Not for several threads at once: that is its owner's to see to.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Waiting:
    """`yields`: whoever doesn't goes before it. `is_let_in`: it holds its size from then on, until that is given back."""

    tenant: str
    size: int
    yields: bool = False
    is_let_in: bool = False


class FairRoom:
    """`largest`: of one thing that is held. Not shared: a tenant may have all of it, where no other wants some."""

    def __init__(self, size: int, *, largest: int = 0, is_shared: bool = False) -> None:
        self.size, self._largest, self._is_shared = size, largest, is_shared
        self.held = 0
        self._held: dict[str, int] = {}  # by tenant
        self._waiting: list[Waiting] = []  # in order of arrival

    @property
    def missing(self) -> int:
        """How much more room it would take to let in everybody who waits and yields to nobody."""
        return self.held + sum(waiting.size for waiting in self._waiting if not waiting.yields) - self.size

    def limit(self, size: int, *, largest: int = 0, is_shared: bool = False) -> None:
        """Judges what is let in from now on by this."""
        self.size, self._largest, self._is_shared = size, largest, is_shared

    def wait(self, tenant: str, size: int, *, yields: bool = False) -> Waiting:
        """Joins the line. Whoever gives up must `leave`."""
        waiting = Waiting(tenant, size, yields)
        self._waiting.append(waiting)
        return waiting

    def leave(self, waiting: Waiting) -> None:
        """Its owner waits no longer; what has been let in already is given back."""
        if waiting.is_let_in:
            self.give_back(waiting.tenant, waiting.size)
        else:
            self._waiting.remove(waiting)

    def give_back(self, tenant: str, size: int) -> None:
        self._hold(tenant, -size)

    def let_in(self) -> Sequence[Waiting]:
        """Everybody whose turn has come. To be asked whenever something has changed."""
        let_in = []
        while (waiting := self._next()) is not None and self.held + waiting.size <= self.size:
            self._waiting.remove(waiting)
            self._hold(waiting.tenant, waiting.size)
            waiting.is_let_in = True
            let_in.append(waiting)
        return let_in

    def _hold(self, tenant: str, size: int) -> None:
        self.held += size
        self._held[tenant] = self._held.get(tenant, 0) + size
        if not self._held[tenant]:
            del self._held[tenant]

    def _next(self) -> Waiting | None:
        firsts: dict[tuple[str, bool], Waiting] = {}
        for waiting in self._waiting:
            firsts.setdefault((waiting.tenant, waiting.yields), waiting)
        entitled = [waiting for waiting in firsts.values() if waiting.size <= self._may_hold(waiting.tenant)]
        return min(entitled, key=lambda waiting: (waiting.yields, self._held.get(waiting.tenant, 0)), default=None)

    def _may_hold(self, tenant: str) -> float:
        """How much more, by what it leaves to others."""
        if not self._is_shared:
            return math.inf
        own = self._held.get(tenant, 0)
        left_by_others = self.size - (self.held - own)
        return max(left_by_others // 2, self._largest) - own
