"""What this process has sent to replicas and has no answer to. Pure; time is handed in."""

from collections import deque
from dataclasses import dataclass

from pipelines.routing.candidate import Candidate
from stages.contract.work import NO_WORK, Work


@dataclass(slots=True, eq=False)
class Sent:
    """One item on its way to a replica, or there."""

    stage: str
    pool: str
    replica: str
    work: Work
    at: float
    name: int | None = None
    tenant: int = 0
    chain: tuple[int, ...] = ()  # beginnings that its row can be followed from
    begun_at: Candidate | None = None
    counts: bool = True  # news has not told of it yet


@dataclass(frozen=True, slots=True)
class Demand:
    """What this process has sent to a stage of a pool and has no answer to. `unplaced` of it, `num_unplaced` items, is with no replica
    yet: there is none, or all are full. Items that nobody knows the work of count as no work."""

    num_items: int = 0
    work: Work = NO_WORK
    num_unplaced: int = 0
    unplaced: Work = NO_WORK


def told_of(sent: deque[Sent] | None, replica: str, before: float) -> list[Sent]:
    """What was sent to the replica before that."""
    told = []
    while sent and (sent[0].at <= before or not sent[0].counts or sent[0].replica != replica):
        one = sent.popleft()
        if one.counts and one.replica == replica:
            told.append(one)
    return told
