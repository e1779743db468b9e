"""The product's own deciders at the simulator's seams: the table and ranking that every HTTP process routes by, its admission, and the
autoscaler. Nothing is decided here. But that the table isn't told what begins alike: simulated replicas read it for each.
"""

import random
from collections.abc import Mapping, Sequence

from pipelines.planning.scaling.pool_state import Budget, PoolState, Scaling
from pipelines.planning.scaling.targets import Memory, targets
from pipelines.planning.simulation.deciders import Place
from pipelines.routing.admission import Admission, Refusal, admit, forecast
from pipelines.routing.candidate import Ranking, Wanted
from pipelines.routing.table import Member, ReplicaTable, Sent
from stages.contract.news import StageNews
from stages.contract.work import Work


class OwnRouter:
    """A `Router`: one `ReplicaTable`. `admission`: None: everything is admitted."""

    def __init__(self, source: random.Random, ranking: Ranking = Ranking(), admission: Admission | None = None) -> None:
        self._table = ReplicaTable(source.random, ranking)
        self._admission = admission
        self._places: dict[tuple[str, str], Place] = {}
        self._pools: dict[str, dict[str, None]] = {}  # of each stage
        self._known: dict[str, Sequence[Place]] = {}  # of each pool

    def there_are(self, pool: str, stages: Sequence[str], places: Sequence[Place], now: float) -> None:
        for place in self._known.get(pool, ()):
            del self._places[pool, place.replica]
        self._known[pool] = tuple(places)
        here = {place.replica: place for place in places}
        self._places |= {(pool, replica): place for replica, place in here.items()}
        self._table.members(
            pool, [Member(place.replica, place.max_ongoing) for place in places], lambda replica: here[replica].ongoing, now
        )
        for stage in stages:
            self._pools.setdefault(stage, {})[pool] = None

    def choose(self, stage: str, wanted: Wanted, now: float) -> Place | None:
        ranked = self._table.ranked(stage, tuple(self._pools.get(stage, ())), wanted, now)
        return None if ranked is None else self._places.get((ranked.best.pool, ranked.best.replica))

    def sent(self, stage: str, place: Place, work: Work | None, now: float) -> Sent:
        return self._table.sent(stage, place.pool, place.replica, work, now)

    def ended(self, token: object) -> None:
        if isinstance(token, Sent):
            self._table.ended(token)

    def heard(self, pool: str, news: StageNews, now: float) -> None:
        if (pool, news.replica) in self._places:
            self._table.heard(pool, news, now)

    def refusal(self, visits: Sequence[tuple[str, Wanted]], left_s: float, priority: int, now: float) -> Refusal | None:
        if self._admission is None:
            return None
        ranked = [self._table.ranked(stage, tuple(self._pools.get(stage, ())), wanted, now) for stage, wanted in visits]
        found = [one for one in ranked if one is not None and one.is_known]
        if len(found) < len(visits):
            return None
        return admit(forecast(found, self._admission), left_s, priority=priority, settings=self._admission)


class OwnScaler:
    """A `Scaler`: `targets`, and what it remembers."""

    def __init__(self, budget: Budget = Budget(), settings: Scaling = Scaling()) -> None:
        self._budget, self._settings, self._memory = budget, settings, Memory()

    @property
    def period_s(self) -> float:
        return self._settings.period_s

    def targets(self, pools: Sequence[PoolState], ongoing: Mapping[str, float], now: float) -> Mapping[str, int]:
        decided, self._memory = targets(pools, self._budget, self._settings, self._memory, now)
        return decided
