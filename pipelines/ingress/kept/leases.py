"""Which process does a piece of kept work: whoever holds its lease, which runs out when that process dies.

Decides how long a lease stands, and how what is still to be done is listed. A lease is advisory, as a claim is (`cache/claims.py`): a
process that was held up for longer than one stands may find that another does the same work too. So what is done twice must come to the
same. Knows nothing of the work.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from cache.store import Store
from pipelines.ingress.kept.kept_values import KeptValues, is_id

LEASE_S = 15.0
"""By so much a process that dies delays what it was doing. A lease bears renewals that come late."""
RENEW_S = 4.0


@dataclass(frozen=True, slots=True)
class OpenWork:
    id: str
    tenant: str


class Leases:
    """Of one kind of work, as one process holds them. Every method raises `Unavailable` where the store can't be asked. `lease_s`: how long
    one stands."""

    def __init__(self, name: str, values: KeptValues, *, lease_s: float = LEASE_S) -> None:
        self._name, self._values, self._lease_s = name, values, lease_s
        self._mark = secrets.token_bytes(16)

    async def open(self, work: OpenWork, for_s: float) -> None:
        """It is to be done, by whoever takes it, within so long."""
        await self._values.ask(lambda store: store.add(self._open, _member(work), ttl_s=for_s))

    async def all_open(self) -> Sequence[OpenWork]:
        """All that is to be done, whether somebody does it or not; what has least time left comes first."""
        members = await self._values.ask(lambda store: store.members(self._open))
        found = (member.partition(":") for member in members)
        return [OpenWork(id, tenant) for id, _, tenant in found if is_id(id)]

    async def done(self, work: OpenWork) -> None:
        """Nobody is to do it any more."""
        await self._values.ask(lambda store: self._close(store, work))

    async def take(self, id: str) -> bool:
        """Whether it is now for this process to do."""
        return await self._values.ask(
            lambda store: store.write(self._lease(id), self._mark, ttl_s=self._lease_s, if_absent=True)
        )

    async def hold(self, id: str) -> bool:
        """Whether it still is, and so longer: also where the lease had run out and nobody took it."""
        return await self._values.ask(lambda store: self._hold(store, id))

    async def let_go(self, id: str) -> None:
        """Another process may take it at once."""
        await self._values.ask(lambda store: self._let_go(store, id))

    async def call_off(self, id: str, for_s: float) -> None:
        """Whoever does it is to stop."""
        await self._values.ask(lambda store: store.write(self._called_off(id), b"1", ttl_s=for_s))

    async def is_called_off(self, id: str) -> bool:
        return await self._values.ask(lambda store: store.read(self._called_off(id)) is not None)

    def _hold(self, store: Store, id: str) -> bool:
        found = store.read(self._lease(id))
        if found is None:
            return store.write(self._lease(id), self._mark, ttl_s=self._lease_s, if_absent=True)
        return found == self._mark and store.renew(self._lease(id), self._lease_s)

    def _let_go(self, store: Store, id: str) -> None:
        if store.read(self._lease(id)) == self._mark:
            store.delete(self._lease(id))

    def _close(self, store: Store, work: OpenWork) -> None:
        store.remove(self._open, _member(work))
        store.delete(self._called_off(work.id))
        self._let_go(store, work.id)

    @property
    def _open(self) -> str:
        return f"{self._name}:open"

    def _lease(self, id: str) -> str:
        return f"{self._name}:lease:{id}"

    def _called_off(self, id: str) -> str:
        return f"{self._name}:off:{id}"


def _member(work: OpenWork) -> str:
    return f"{work.id}:{work.tenant}"
