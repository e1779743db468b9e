"""One call on its way to a replica: what the caller tells Serve's router, and hears from it. Both are in the caller's process; to the
replica it goes as nothing."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from pipelines.routing.candidate import Ranked, Wanted
from pipelines.routing.table import ReplicaTable, Sent
from stages.contract.item import Item, tenant_hint
from stages.contract.news import Hints, hint
from stages.contract.work import Work

ALL = Work(float("inf"), float("inf"))


def wanted_of(item: Item[Any]) -> Wanted:
    """As it is now: until its deadline it has what is left. A result that has a name is remembered as a whole."""
    name = hint(item.name) if item.name is not None else None
    hints = Hints((name,), ALL) if name is not None and not item.hints.chain else item.hints
    return Wanted(item.work, hints, name, item.priority, item.deadline - time.time(), tenant_hint(item.tenant))


class Route:
    """`ranked`: who was chosen (None: nobody was known); `tried`: who has failed it already. Where all are full, it is with nobody until
    one takes it. Serve's router gets it back where its replica can't be reached or has no room, and knows none but those of the same
    pool."""

    __slots__ = ("_pool", "_ranked", "_sent", "_stage", "_table", "_tried", "_wanted", "ask", "is_accepted", "placed_at")

    def __init__(
        self, table: ReplicaTable, stage: str, pool: str, wanted: Wanted, ranked: Ranked | None, tried: frozenset[str]
    ) -> None:
        self._table, self._stage, self._pool, self._wanted = table, stage, pool, wanted
        self._ranked, self._tried = ranked, tried
        self.is_accepted = False
        self.placed_at: float | None = None
        """Since when it is on its way to a replica; None: it waits in Serve's router."""
        self.ask: Callable[[], Awaitable[object]] | None = None
        """Asks the process that it went to for a word, which it answers whatever it does, by another way than the call's. Raises Ray's
        errors."""
        replica = ranked.best.replica if ranked is not None and not ranked.best.is_full else ""
        self._sent: Sent = table.sent(
            stage,
            pool,
            replica,
            wanted.work,
            time.monotonic(),
            name=wanted.name,
            tenant=wanted.tenant,
            hints=wanted.hints,
        )

    @property
    def ranked(self) -> Ranked | None:
        return self._ranked

    @property
    def stage(self) -> str:
        return self._stage

    @property
    def wanted(self) -> Wanted:
        return self._wanted

    @property
    def pool(self) -> str:
        return self._pool

    @property
    def replica(self) -> str:
        """Where it goes, or went; "": nobody has been chosen yet."""
        return self._sent.replica

    def rank_again(self) -> str | None:
        """Who is to take it now, of the same pool: the one that was chosen is gone, or full. None: nobody is known."""
        ranked = self._table.ranked(self._stage, (self._pool,), self._wanted, time.monotonic(), without=self._tried)
        if ranked is None or not ranked.best.replica:
            return None
        self._ranked = ranked
        return ranked.best.replica

    @property
    def tried(self) -> frozenset[str]:
        """Those that could not be reached, too."""
        return self._tried

    def went(self, replica: str, ask: Callable[[], Awaitable[object]] | None = None) -> None:
        self.placed_at, self.ask = time.monotonic(), ask
        self._table.went(self._sent, replica, self.placed_at)

    def was_accepted(self) -> None:
        """By the replica that it went to: it has begun there, or waits."""
        self.is_accepted = True

    def came_back(self, *, is_lost: bool) -> None:
        """The replica that it went to has not taken it. `is_lost`: it can't be reached."""
        self.placed_at = None
        if is_lost:
            self._tried |= {self._sent.replica}

    def ended(self) -> None:
        """Idempotent."""
        self._table.ended(self._sent)

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _nothing, ()


def _nothing() -> None:
    return None
