"""What is prepared next, where a few threads prepare for everyone: pure, with the time handed in.

Of several tenants whoever has had least of the threads' time (`stages/engine/scheduling/fairness.py`), of a tenant's own what ranks
first (`stages/engine/scheduling/waiting.py`): what is prepared late runs late, whatever its turn on the device. Knows no threads.
"""

from typing import Generic, TypeVar

from stages.engine.scheduling.fairness import VirtualCounters
from stages.engine.scheduling.room import Tally
from stages.engine.scheduling.waiting import Entry, WaitingLine

W = TypeVar("W")


class PreparingLine(Generic[W]):
    """Of what waits, what is to be prepared."""

    def __init__(self, waiting: WaitingLine[W]) -> None:
        self._waiting = waiting
        self._ids: dict[str, None] = {}  # in order of coming
        self._begun: Tally[str] = Tally()
        self._counters = VirtualCounters()

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, entry_id: str) -> None:
        self._ids[entry_id] = None

    def discard(self, entry_id: str) -> None:
        self._ids.pop(entry_id, None)

    def begin_next(self, now: float) -> Entry[W] | None:
        """It is being prepared until `ended`. None: nothing is left."""
        first = self._waiting.first_of_each(self._ids, now)
        if not first:
            return None
        self._counters.begin({*first, *self._begun})

        def had(tenant: str) -> float:
            return self._counters.of(tenant) + self._counters.expected(tenant, self._begun.of(tenant).items)

        entry = first[min(first, key=had)]
        self.discard(entry.id)
        self._begun.add(entry.tenant)
        return entry

    def ended(self, tenant: str, seconds: float) -> None:
        """One of this tenant's has been prepared, well or not, and kept a thread busy for so long."""
        self._begun.remove(tenant)
        self._counters.charge({tenant: 1.0}, seconds)
        if not self._ids and not self._begun:
            self._counters.rest()
