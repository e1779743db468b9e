"""The seams at which deciders are put into a simulation: who routes, who refuses, who scales. The product's own are in `own.py`;
benchmarks put others beside them.

Knows no events and no devices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipelines.planning.scaling.pool_state import PoolState
from pipelines.routing.admission import Refusal
from pipelines.routing.candidate import Wanted
from stages.contract.news import StageNews
from stages.contract.work import Work


@dataclass(slots=True, eq=False)
class Place:
    """A replica, as whoever calls it finds it. `ongoing`: the requests that it has in hand, as it would say if it was asked now."""

    pool: str
    replica: str
    max_ongoing: int
    ongoing: int = 0

    @property
    def is_full(self) -> bool:
        return self.ongoing >= self.max_ongoing


class Router(Protocol):
    """What one calling process decides by. Each has one of its own, and hears only what such a process would."""

    def there_are(self, pool: str, stages: Sequence[str], places: Sequence[Place], now: float) -> None:
        """Who is in that pool, from now on."""
        ...

    def choose(self, stage: str, wanted: Wanted, now: float) -> Place | None:
        """None: nobody has room, as far as it has looked; it is asked again, after a pause."""
        ...

    def sent(self, stage: str, place: Place, work: Work | None, now: float) -> object:
        """Something goes there. Whatever is returned is handed to `ended`."""
        ...

    def ended(self, token: object) -> None:
        """Answered, or lost."""
        ...

    def heard(self, pool: str, news: StageNews, now: float) -> None: ...

    def refusal(self, visits: Sequence[tuple[str, Wanted]], left_s: float, priority: int, now: float) -> Refusal | None:
        """Of a request that will visit these stages, one after another. None: it is admitted."""
        ...


class Scaler(Protocol):
    """How many replicas there should be."""

    @property
    def period_s(self) -> float: ...

    def targets(self, pools: Sequence[PoolState], ongoing: Mapping[str, float], now: float) -> Mapping[str, int]:
        """By pool. `ongoing`: by pool, the requests that its replicas hold or that wait for one, also for other stages' results."""
        ...
