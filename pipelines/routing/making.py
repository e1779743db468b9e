"""What is being made where: results that somebody of this process waits for, by their names, so that who wants the same is sent there.

Decides nothing about who makes it first. Pure.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class _Made:
    """At this replica of this pool; so many wait for it."""

    at: tuple[str, str]
    waiting: int = 1


class Making:
    """Of one stage. Where an item has no name (None), or is with no replica yet (""), it takes no part."""

    def __init__(self) -> None:
        self._made: dict[int, _Made] = {}

    def __len__(self) -> int:
        return len(self._made)

    def at(self, name: int) -> tuple[str, str] | None:
        """The pool and the replica."""
        made = self._made.get(name)
        return made.at if made is not None else None

    def join(self, name: int | None, pool: str, replica: str) -> None:
        """One more waits for it there. What is being made elsewhere already counts there only."""
        if name is None or not replica:
            return
        made = self._made.get(name)
        if made is None:
            self._made[name] = _Made((pool, replica))
        elif made.at == (pool, replica):
            made.waiting += 1

    def leave(self, name: int | None, pool: str, replica: str) -> None:
        made = self._made.get(name) if name is not None else None
        if name is not None and made is not None and made.at == (pool, replica):
            made.waiting -= 1
            if not made.waiting:
                del self._made[name]
