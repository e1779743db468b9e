"""A started entry: what it needs of its next step, when that is due, and what is left of it. Pure."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from stages.contract.stage import Share
from stages.contract.work import NO_WORK, Work
from stages.engine.scheduling.waiting import Entry

W = TypeVar("W")


@dataclass(slots=True)
class Row(Generic[W]):
    """A started entry. Its share may change from step to step (an LLM's row: a chunk of its prompt, then one token)."""

    entry: Entry[W]
    batch_key: Hashable
    cost: float
    tenant: str
    due: float
    left: Work
    did: Work = NO_WORK
    is_charged: bool = False  # for a step, at least

    def worked(self, work: float, steps: float = 1.0) -> None:
        """So much, in so many steps. As long as it goes on there is a step before it, whatever was foreseen."""
        if work <= 0:
            return
        did, left = self.did, self.left
        amount, left_steps = left.amount - work, left.steps - steps
        self.did = Work(did.amount + work, did.steps + steps)
        if left_steps < 1.0:
            self.left = Work(amount if amount > self.cost else max(0.0, self.cost), 1.0)
        else:
            self.left = Work(amount if amount > 0.0 else 0.0, left_steps)

    def shares(self, share: Share) -> None:
        """From now on."""
        self.batch_key, self.cost = share.batch_key, share.cost
        if share.rest is not None:
            self.left = share.rest

    def waits_again(self) -> Entry[W]:
        return replace(self.entry, expected=self.left)

    @property
    def patience(self) -> tuple[float, float, float]:
        """Of several, the one with the highest can best wait."""
        return self.entry.priority, self.entry.deadline, self.entry.arrival
