"""A fleet in virtual time that is scaled by the policy: arrivals come by a seeded clock, replicas take a while to start, and serve as many
items at a time as their batch has rows. As little as the policy can be judged by; the real one is `pipelines/planning/simulation`."""

import heapq
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from pipelines.planning.scaling.pool_state import Budget, Feed, PoolState, Scaling, StageLoad
from pipelines.planning.scaling.targets import Memory, targets
from stages.contract.cost import Speed, StepTimes
from stages.contract.work import Work

ITEM = Work(10.0, 10.0)


def speed(items_per_s: float, rows: int = 4) -> Speed:
    """Of a replica that does so many of `ITEM` a second with full batches."""
    return Speed(
        StepTimes(((1.0, rows / items_per_s / ITEM.steps), (1e6, rows / items_per_s / ITEM.steps))), rows, float("inf")
    )


@dataclass(frozen=True)
class Pool:
    """`state`: as it stands with nothing to do. `items_per_s`: of one replica with full batches of `rows`."""

    name: str
    stage: str
    state: PoolState
    items_per_s: float
    rows: int


def pool(
    name: str, stage: str, items_per_s: float, *, rows: int = 4, after: Sequence[str] = (), knows: bool = True, **more: object
) -> Pool:
    load = StageLoad(stage, speed(items_per_s, rows) if knows else None, after=tuple(Feed(before) for before in after))
    given = {"min_replicas": 1, "max_replicas": 1000, "start_up_s": 10.0} | more
    return Pool(name, stage, PoolState(name, (load,), **given), items_per_s, rows)  # type: ignore[arg-type]


@dataclass
class _Live:
    pool: Pool
    running: int
    starting: list[float] = field(default_factory=list)
    stopping: list[float] = field(default_factory=list)


@dataclass
class Replay:
    """What happened: `targets` and `present` (replicas that have a device) at every decision, and `waits`: seconds, by stage."""

    targets: list[tuple[float, Mapping[str, int]]] = field(default_factory=list)
    present: list[tuple[float, Mapping[str, int]]] = field(default_factory=list)
    running: list[tuple[float, Mapping[str, int]]] = field(default_factory=list)
    num_waiting: list[tuple[float, Mapping[str, int]]] = field(default_factory=list)
    waits: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def changes(self, since_s: float = 0.0) -> int:
        """How often a target changed."""
        counted = [given for at, given in self.targets if at >= since_s]
        return sum(before[name] != after[name] for before, after in pairwise(counted) for name in after)

    def at(self, second: float, what: str = "targets") -> Mapping[str, int]:
        """The latest one by then."""
        return [given for at, given in getattr(self, what) if at <= second + 1e-9][-1]


def replay(
    pools: Sequence[Pool],
    arrivals: Mapping[str, Callable[[float], float]],
    duration_s: float,
    *,
    settings: Scaling = Scaling(),
    budget: Callable[[float], Budget] = lambda now: Budget(),
    initial: Mapping[str, int] | None = None,
    seed: int = 0,
    drains_s: float = 3.0,
    broken: Callable[[float, str], bool] = lambda now, pool: False,
    next_stage: Mapping[str, str] | None = None,
    callers: Mapping[str, tuple[int, float]] | None = None,
) -> Replay:
    """`arrivals`: by stage, items a second by time. `callers`: by stage, how many ask again as soon as they have what they
    asked for, and from which second on. `next_stage`: where a stage's items go next. `broken`: whether a pool's replicas
    neither run nor start then. `drains_s`: how long a replica that is let go of keeps its device."""
    random_ = random.Random(seed)
    live = {p.name: _Live(p, (initial or {}).get(p.name, p.state.min_replicas)) for p in pools}
    stages = list(dict.fromkeys(p.stage for p in pools))
    events: list[tuple[float, int, str, str]] = []
    order = iter(range(10**9))
    result = Replay(waits={stage: [] for stage in stages})

    most = {stage: max(rate(second) for second in range(int(duration_s) + 1)) for stage, rate in arrivals.items()}

    def after(now: float, stage: str) -> None:
        """A candidate, which comes with its rate's part of the highest one."""
        if most[stage] > 0:
            heapq.heappush(events, (now + random_.expovariate(most[stage]), next(order), "maybe", stage))

    for stage in arrivals:
        after(0.0, stage)
    waiting: dict[str, list[float]] = {stage: [] for stage in stages}
    busy = dict.fromkeys((p.name for p in pools), 0)
    counts = {stage: [0, 0] for stage in stages}
    memory, decided_at = Memory(), 0.0
    heapq.heappush(events, (settings.period_s, next(order), "decide", ""))

    def place(now: float, stage: str) -> None:
        hosting = sorted((p for p in pools if p.stage == stage), key=lambda p: -p.items_per_s)
        for p in hosting:
            while waiting[stage] and not broken(now, p.name) and busy[p.name] < live[p.name].running * p.rows:
                came = waiting[stage].pop(0)
                result.waits[stage].append((now, now - came))
                busy[p.name] += 1
                took = p.rows / p.items_per_s * random_.uniform(0.8, 1.2)
                heapq.heappush(events, (now + took, next(order), "done", p.name))

    for stage, (num_callers, since) in (callers or {}).items():
        for _ in range(num_callers):
            heapq.heappush(events, (since, next(order), "asks", stage))
    while events:
        now, _, what, who = heapq.heappop(events)
        if now > duration_s:
            break
        if what == "maybe":
            after(now, who)
            if random_.random() * most[who] < arrivals[who](now):
                waiting[who].append(now)
                counts[who][0] += 1
                place(now, who)
        elif what == "asks":
            waiting[who].append(now)
            counts[who][0] += 1
            place(now, who)
        elif what == "done":
            p = live[who].pool
            busy[who] -= 1
            counts[p.stage][1] += 1
            follower = (next_stage or {}).get(p.stage)
            if follower:
                waiting[follower].append(now)
                counts[follower][0] += 1
                place(now, follower)
            if callers and p.stage in callers:
                heapq.heappush(events, (now, next(order), "asks", p.stage))
            place(now, p.stage)
        elif what == "started":
            one = live[who]
            if now in one.starting:
                one.starting.remove(now)
                if broken(now, who):
                    one.starting.append(now + one.pool.state.start_up_s)
                    heapq.heappush(events, (one.starting[-1], next(order), "started", who))
                else:
                    one.running += 1
                    place(now, one.pool.stage)
        else:
            told: set[str] = set()
            states = []
            for p in pools:
                (came, left), is_told = counts[p.stage], p.stage in told
                line = (0, 0, 0) if is_told else (came, left, len(waiting[p.stage]))
                told.add(p.stage)
                states.append(_state(live[p.name], line, busy[p.name], now - decided_at, now, broken(now, p.name)))
            wanted, memory = targets(states, budget(now), settings, memory, now)
            decided_at = now
            for pair in counts.values():
                pair[:] = [0, 0]
            for name, count in wanted.items():
                one = live[name]
                one.stopping = [until for until in one.stopping if until > now]
                for _ in range(count - one.running - len(one.starting)):
                    one.starting.append(now + one.pool.state.start_up_s + next(order) * 1e-9)
                    heapq.heappush(events, (one.starting[-1], next(order), "started", name))
                for _ in range(one.running + len(one.starting) - count):
                    if one.starting:
                        one.starting.pop()
                    else:
                        one.running -= 1
                        one.stopping.append(now + drains_s)
            result.targets.append((now, dict(wanted)))
            result.present.append((now, {n: o.running + len(o.starting) + len(o.stopping) for n, o in live.items()}))
            result.running.append((now, {n: o.running for n, o in live.items()}))
            result.num_waiting.append((now, {stage: len(line) for stage, line in waiting.items()}))
            heapq.heappush(events, (now + settings.period_s, next(order), "decide", ""))
    return result


def _state(one: _Live, line: tuple[int, int, int], busy: int, seconds: float, now: float, is_broken: bool) -> PoolState:
    """What is seen of a pool. `line`: of its stage, what came and left and how many wait: told of one pool only."""
    p, (came, left, waiting) = one.pool, line
    load = replace(
        p.state.stages[0],
        speed=p.state.stages[0].speed if one.running else None,
        arriving=came / seconds,
        work=ITEM * (came / seconds),
        leaving=left / seconds,
        backlog=ITEM * (busy + waiting),
        num_items=busy + waiting,
    )
    running = 0 if is_broken else one.running
    starting = len(one.starting) + (one.running - running)
    stopping = sum(until > now for until in one.stopping)
    return replace(p.state, stages=(load,), running=running, starting=starting, stopping=stopping)
