"""From what replicas and callers tell to the state of every pool, which scaling is decided from.

Decides what is taken for a replica that nobody knew, and what is supposed of who has told nothing yet. Pure: what was told comes in,
with the time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipelines.planning.scaling.account import Account, Counted
from pipelines.planning.scaling.pool_state import Feed, PoolState, StageLoad
from stages.contract.message import ALL, message
from stages.contract.news import StageNews
from stages.contract.work import NO_WORK, Work

START_UP_S = 10.0  # until one has been seen to start
FEW_ITEMS = 50
FORGOTTEN_AFTER_S = 600.0
"""A replica that has told nothing for so long has ended."""
ACQUAINTED_AFTER_S = 30.0
"""For so long after the first look whoever tells something for the first time has been there before."""


@message(droppable=[ALL])
@dataclass(frozen=True, slots=True)
class Told:
    """By one replica, of each of its stages. `pool`: which it is in. `at`: when, in seconds of a clock of its own that only goes forward;
    None: that isn't known."""

    pool: str
    news: tuple[StageNews, ...]
    at: float | None = None


@message(droppable=[ALL])
@dataclass(frozen=True, slots=True)
class Waiting:
    """Items that callers have for a stage and no replica took."""

    num_items: int = 0
    work: Work = NO_WORK


WaitingFor = Mapping[tuple[str, str], Waiting]
"""By pool and stage."""


@dataclass(frozen=True, slots=True)
class Present:
    """A pool's replicas, as the cluster tells."""

    running: int = 0
    starting: int = 0
    stopping: int = 0


@dataclass(frozen=True, slots=True)
class Watched:
    """A pool that is to be looked at: its state but for what is observed. `after`: by stage, those whose items come there next."""

    state: PoolState
    after: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class _Start:
    since: float
    running: int


class Observation:
    """Of the same pools, from decision to decision."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._began_at: float | None = None
        self._accounts: dict[tuple[str, str], Account] = {}
        self._ever: dict[str, Counted] = {}
        self._starts: dict[str, _Start] = {}
        self._start_up_s: dict[str, float] = {}

    def states(
        self,
        watched: Sequence[Watched],
        told: Mapping[str, Told],
        waiting: Iterable[WaitingFor],
        present: Mapping[str, Present],
        now: float,
        period_s: float,
    ) -> Sequence[PoolState]:
        """`told`: by replica; `waiting`: of each caller; `present`: by pool, of which those that aren't named are left out."""
        seconds = max(1e-3, now - self._at) if self._at is not None else period_s
        self._at = now
        came = self._came(told, now, seconds)
        lines = _sums(waiting)
        found = []
        for pool in watched:
            name = pool.state.pool
            if (there := present.get(name)) is not None:
                news = [one for each in told.values() if each.pool == name for one in each.news]
                loads = [self._load(name, stage, pool, news, came, lines, there, seconds) for stage in pool.state.stages]
                found.append(self._state(pool.state, tuple(loads), news, there, now))
        return found

    def _came(self, told: Mapping[str, Told], now: float, seconds: float) -> Mapping[tuple[str, str], Counted]:
        """Since the last time, by pool and stage. A replica that nobody knew has begun at nothing, unless whoever looks is new itself.
        One that was silent for a while, or whose words were lost, goes on from what it told last: what came to it meanwhile came evenly."""
        came: dict[tuple[str, str], Counted] = {}
        self._accounts = {key: known for key, known in self._accounts.items() if now - known.heard_at <= FORGOTTEN_AFTER_S}
        self._began_at = now if self._began_at is None else self._began_at
        is_new_here = now - self._began_at < ACQUAINTED_AFTER_S
        for replica, each in told.items():
            for one in each.news:
                key, total = (replica, one.stage), Counted(one.arrived, one.num_arrived, one.num_left)
                account = self._accounts.get(key)
                if account is None or total.arrived < account.total.arrived:
                    begins = total if account is None and is_new_here else Counted()
                    account = self._accounts[key] = Account(begins, each.at, now, seconds)
                self._ever[one.stage] = self._ever.get(one.stage, Counted()).plus(total.since(account.total))
                account.tell(total, each.at, now)
                pool = each.pool, one.stage
                came[pool] = came.get(pool, Counted()).plus(account.came(now, seconds))
        return came

    def _load(
        self,
        pool: str,
        stage: StageLoad,
        watched: Watched,
        news: Sequence[StageNews],
        came: Mapping[tuple[str, str], Counted],
        lines: WaitingFor,
        there: Present,
        seconds: float,
    ) -> StageLoad:
        own = [one for one in news if one.stage == stage.stage] if there.running else []
        new, line = came.get((pool, stage.stage), Counted()), lines.get((pool, stage.stage), Waiting())
        known = max((one for one in own if one.speed is not None), key=lambda one: one.num_left, default=None)
        feeds = tuple(Feed(before, self._items(stage.stage, before)) for before in watched.after.get(stage.stage, ()))
        return replace(
            stage,
            speed=known.speed if known is not None else stage.speed,
            arriving=new.arrived / seconds,
            work=new.work * (1 / seconds),
            leaving=new.left / seconds,
            backlog=sum((one.outstanding for one in own), line.work),
            num_items=sum(one.num_items for one in own) + line.num_items,
            after=feeds,
        )

    def _items(self, stage: str, before: str) -> float:
        """How many items come here for each of the stage before; never more than one: others come here by other ways."""
        here, there = self._ever.get(stage), self._ever.get(before)
        if here is None or there is None or min(here.arrived, there.arrived) < FEW_ITEMS:
            return 1.0
        return min(1.0, here.arrived / there.arrived)

    def _state(
        self, state: PoolState, loads: tuple[StageLoad, ...], news: Sequence[StageNews], there: Present, now: float
    ) -> PoolState:
        failing = sum(one.failing for one in news) / len(news) if news else 0.0
        return replace(
            state,
            stages=loads,
            running=there.running,
            starting=there.starting,
            stopping=there.stopping,
            failing=min(0.9, failing),
            start_up_s=self._seen_to_start(state.pool, there, now),
        )

    def _seen_to_start(self, pool: str, there: Present, now: float) -> float:
        """How long a replica takes until it serves, by the latest ones."""
        start = self._starts.get(pool)
        if start is not None and there.running > start.running:
            took, known = now - start.since, self._start_up_s.get(pool)
            self._start_up_s[pool] = took if known is None else known + 0.5 * (took - known)
            del self._starts[pool]
        if there.starting == 0:
            self._starts.pop(pool, None)
        else:
            self._starts.setdefault(pool, _Start(now, there.running))
        return self._start_up_s.get(pool, START_UP_S)


def _sums(waiting: Iterable[WaitingFor]) -> WaitingFor:
    found: dict[tuple[str, str], Waiting] = {}
    for caller in waiting:
        for key, line in caller.items():
            known = found.get(key, Waiting())
            found[key] = Waiting(known.num_items + line.num_items, known.work + line.work)
    return found
