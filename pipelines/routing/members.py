"""Who is there: the replicas of a pool, as Serve tells of them, and since when somebody waits for one where there is none. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, field


def pool_key(application: str, deployment: str) -> str:
    """What a pool is called here: two applications may have deployments of the same name."""
    return f"{application}#{deployment}"


@dataclass(frozen=True, slots=True)
class Member:
    """A replica that is there. `max_ongoing`: of requests."""

    replica: str
    max_ongoing: int


@dataclass(slots=True)
class Pool:
    """`ongoing`: how many requests a replica has in hand, as far as that is known. `starts_in_s`: what one takes to start, once seen."""

    members: dict[str, Member] = field(default_factory=dict)
    ongoing: Callable[[str], int | None] = lambda replica: None
    starts_in_s: float | None = None
    asleep_at: float | None = None  # since when somebody waits for it to have a replica

    def is_full(self, replica: str) -> bool:
        member, ongoing = self.members.get(replica), self.ongoing(replica)
        return member is not None and ongoing is not None and ongoing >= member.max_ongoing
