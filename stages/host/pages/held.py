"""The memory of pages that were fetched and are not yet where they are needed: bounded, and shared between tenants.

Decides how many more an item may have fetched. A page that several items hold takes its memory once. Pure; knows no page's content.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from stages.contract.limits import QueueLimits
from stages.engine.scheduling.room import Tally, has_room_for_cost

MAX_HELD_BYTES = 2**30


@dataclass(slots=True)
class _Held:
    tenant: str
    num_bytes: int
    num_holders: int = 0


class HeldPages:
    """A single item's page over the bound is let in where its tenant holds nothing, as everywhere (`room.py`)."""

    def __init__(self, max_bytes: int = MAX_HELD_BYTES) -> None:
        self._limits = QueueLimits(max_cost=max_bytes)
        self._held: dict[str, _Held] = {}
        self._tally: Tally[str] = Tally()

    @property
    def num_bytes(self) -> int:
        return round(self._tally.cost)

    def hold(self, keys: Iterable[str], num_bytes: int, tenant: str) -> list[str]:
        """Those that there is room for, of pages of `num_bytes` each, up to the first for which there is none. `let_go` of them in any
        case."""
        held: list[str] = []
        for key in keys:
            if key not in self._held:
                if not has_room_for_cost(self._tally, tenant, num_bytes, self._limits):
                    break
                self._held[key] = _Held(tenant, num_bytes)
                self._tally.add(tenant, num_bytes)
            self._held[key].num_holders += 1
            held.append(key)
        return held

    def let_go(self, keys: Iterable[str]) -> None:
        for key in keys:
            held = self._held[key]
            held.num_holders -= 1
            if not held.num_holders:
                del self._held[key]
                self._tally.remove(held.tenant, held.num_bytes)
