"""How many replicas each pool should have: one decision for all pools of all applications, under one budget.

Decides in this order: what the budget no longer allows goes; what nobody has needed for a while goes; what is needed comes, the most
efficient pools first; where there is not enough, it is shared. A replica comes only into room that is free by then, not into what
another one, still at its last requests, has yet to leave. So numbers rise at once on evidence and fall slowly. Pure: no clock, no globals;
what must be known from one decision to the next is a `Memory` that goes in and comes out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from pipelines.planning.scaling.allocation import Allocation, Bounds, Group
from pipelines.planning.scaling.capacity import PRICE, Offer, batch_rows, item_rates, offers
from pipelines.planning.scaling.demand import LITTLE, LONGER, PERIODS, Line, Need, incoming_rate, need, need_by_items
from pipelines.planning.scaling.history import History
from pipelines.planning.scaling.pool_state import Budget, PoolState, Scaling, StageLoad
from stages.contract.cost import Speed
from stages.contract.work import NO_WORK, Work

STUCK_AFTER = 3.0
"""Replicas that have been starting for so many times what that usually takes count for nothing."""
FALLS = 4
"""In so many steps replicas go while the time passes after which they may: not one by one, each time that a little less came."""
_LEAST_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Starting:
    """Since when a pool's replicas have been starting while no more of them run."""

    since: float
    running: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What a decision leaves to the next. Empty at the start. `counts`: what was decided, of which the targets are as much as there was
    room for; `targets`: those. `risen`: when each stage last needed more; `fallen`: when it let go
    of replicas. `speeds`: the latest that was known, by pool and stage."""

    counts: Mapping[str, int] = field(default_factory=dict)
    targets: Mapping[str, int] = field(default_factory=dict)
    histories: Mapping[str, History] = field(default_factory=dict)
    risen: Mapping[str, float] = field(default_factory=dict)
    fallen: Mapping[str, float] = field(default_factory=dict)
    starting: Mapping[str, Starting] = field(default_factory=dict)
    speeds: Mapping[tuple[str, str], Speed] = field(default_factory=dict)


def targets(
    pools: Sequence[PoolState], budget: Budget, settings: Scaling, memory: Memory, now: float
) -> tuple[Mapping[str, int], Memory]:
    """Replicas of every pool, by its name. `now`: seconds, of a clock that only goes forward; to be asked every `settings.period_s`."""
    speeds = {**memory.speeds, **_speeds(pools)}
    known = [_with_speeds(pool, speeds) for pool in pools]
    histories = _histories(known, settings, memory, now)
    rates = item_rates(known, {stage: history.item for stage, history in histories.items()})
    share = partial(offers, known, budget, rates)
    usual = {stage: histories[stage].usual_rate for stage in rates}
    starting = _starting(pools, memory, now)
    allocation = _as_decided(known, budget, share(usual), _bounds(pools, starting, now), memory)
    needs = _needs(known, allocation, histories, rates, settings)
    _reallocate(allocation, known, needs, share, usual, memory, settings, now)
    wanted = _within_room(known, allocation, needs, memory)
    risen = {stage: now for stage, each in needs.items() if each.more is not None}
    fallen = {load.stage: now for pool in pools if _has_fallen(pool.pool, allocation, memory) for load in pool.stages}
    return wanted, Memory(
        dict(allocation.counts), wanted, histories, {**memory.risen, **risen}, {**memory.fallen, **fallen}, starting, speeds
    )


def _has_fallen(pool: str, allocation: Allocation, memory: Memory) -> bool:
    return allocation.counts[pool] < memory.counts.get(pool, 0)


def _reallocate(
    allocation: Allocation,
    pools: Sequence[PoolState],
    needs: Mapping[str, Need],
    share: Callable[[Mapping[str, float]], Mapping[str, Offer]],
    usually: Mapping[str, float],
    memory: Memory,
    settings: Scaling,
    now: float,
) -> None:
    """`share`: what replicas add where stages are to do so much; `usually`: what those do that ask for nothing. Where the stages of one
    process have parts of its device in proportion to what each needs, there is enough for one of them where there is for all. Who has more
    than it must have keeps that, unless another lacks it."""
    wanted = {stage: max(each.usual, LITTLE if each.is_awake else 0.0) for stage, each in needs.items()}
    more = {stage: each.more for stage, each in needs.items() if each.more is not None}
    wanted |= more
    allocation.shed(wanted)
    allocation.keep_minimums()
    least = _least(pools, needs, memory, settings, now)
    allocation.offer(share({**usually, **least}))
    allocation.lower_to(least, {pool.pool: pool.running for pool in pools})
    allocation.offer(share({**usually, **more}))
    starved = allocation.raise_to(more)
    bearable = {stage: rate / settings.most_utilisation for stage, rate in usually.items()}
    allocation.take_for(starved, more, {**wanted, **bearable, **more})


def _least(
    pools: Sequence[PoolState], needs: Mapping[str, Need], memory: Memory, settings: Scaling, now: float
) -> Mapping[str, float]:
    """The capacity that each stage must keep; only of stages that may let replicas go."""
    found = {}
    for stage, needed in needs.items():
        hosting = [pool for pool in pools if any(load.stage == stage for load in pool.stages)]
        down_after_s = max(pool.down_after_s for pool in hosting)
        since = now - memory.risen.get(stage, float("-inf")) + settings.period_s / 2
        rests = now - memory.fallen.get(stage, float("-inf")) + settings.period_s / 2 < down_after_s / FALLS
        may_fall = needed.more is None and since >= down_after_s and not rests
        least = needed.least(settings, down_after_s, now) if may_fall else None
        if least is not None:
            found[stage] = 0.0 if _is_idle(needed, hosting, settings, now) else max(least, LITTLE)
    return found


def _is_idle(needed: Need, hosting: Sequence[PoolState], settings: Scaling, now: float) -> bool:
    """For so long that nothing of it need stay."""
    waits = [pool.down_after_s if pool.to_zero_after_s is None else pool.to_zero_after_s for pool in hosting]
    return not needed.is_awake and needed.history.busy_at <= now - max(waits) + settings.period_s / 2


def _needs(
    pools: Sequence[PoolState],
    allocation: Allocation,
    histories: Mapping[str, History],
    rates: Mapping[str, Mapping[str, float]],
    settings: Scaling,
) -> Mapping[str, Need]:
    """In the order in which items come from stage to stage."""
    found: dict[str, Need] = {}
    for stage in _in_order(pools):
        hosting = [(pool, load) for pool in pools for load in pool.stages if load.stage == stage]
        history, capacity = histories[stage], allocation.capacity(stage)
        up_after_s = min(pool.up_after_s for pool, _ in hosting)
        if stage in rates:
            feeds = [(feed.stage, feed.items) for feed in hosting[0][1].after]
            rows = sum(pool.running * batch_rows(load.speed, history.item) for pool, load in hosting)
            line = Line(
                waiting=_waiting(hosting, history.item, rows),
                drain_s=max(settings.drain_s, _item_s(hosting, history.item, rates[stage])),
                incoming=incoming_rate(feeds, found, settings),
                rows=rows,
            )
            found[stage] = need(history, capacity, allocation.attainable(stage), line, settings, up_after_s)
        else:
            running = sum(pool.running * pool.items_per_replica for pool, _ in hosting)
            found[stage] = need_by_items(history, capacity, running, settings, up_after_s)
    return found


def _waiting(hosting: Sequence[tuple[PoolState, StageLoad]], item: Work, rows: float) -> float:
    """How many of the usual items the running batches, with `rows`, have no room for."""
    num_items = sum(load.num_items for _, load in hosting)
    amount = sum(load.backlog.amount for _, load in hosting)
    beyond = max(0.0, num_items - rows)
    return beyond * (amount / num_items / item.amount if amount > 0 and item.amount > 0 else 1.0) if beyond else 0.0


def _item_s(hosting: Sequence[tuple[PoolState, StageLoad]], item: Work, rates: Mapping[str, float]) -> float:
    """How long a usual item takes in a full batch, where that is soonest: what waits is not done sooner, however many replicas come."""
    found = [batch_rows(load.speed, item) / rate for pool, load in hosting if (rate := rates[pool.pool]) > 0]
    return min(found, default=0.0)


def _in_order(pools: Sequence[PoolState]) -> Sequence[str]:
    """Every stage after those whose items come to it; those of a circle in any order."""
    after = {load.stage: [feed.stage for feed in load.after] for pool in pools for load in pool.stages}
    ordered: dict[str, None] = {}

    def visit(stage: str, on_the_way: frozenset[str]) -> None:
        for before in after[stage]:
            if before in after and before not in on_the_way and before not in ordered:
                visit(before, on_the_way | {stage})
        ordered[stage] = None

    for stage in after:
        visit(stage, frozenset())
    return list(ordered)


def _as_decided(
    pools: Sequence[PoolState],
    budget: Budget,
    offered: Mapping[str, Offer],
    bounds: Mapping[str, Bounds],
    memory: Memory,
) -> Allocation:
    """As it was decided last; of a pool that nothing was decided about, as it is."""
    before = {pool.pool: memory.counts.get(pool.pool, _found(pool)) for pool in pools}
    counts = {name: min(bounds[name].most, count) for name, count in before.items()}
    return Allocation(offered, bounds, _groups(pools), _limits(budget), counts)


def _found(pool: PoolState) -> int:
    """Without those that only start, where nobody asked for any: Serve begins every deployment with one."""
    is_idle = pool.min_replicas == 0 and pool.running == 0 and not any(load.num_items or load.arriving for load in pool.stages)
    return 0 if is_idle else pool.running + pool.starting


def _groups(pools: Sequence[PoolState]) -> Sequence[Group]:
    """Stages that feed one another. The weight is the largest of their pools'."""
    found: list[set[str]] = []
    for load in (load for pool in pools for load in pool.stages):
        linked = {load.stage, *(feed.stage for feed in load.after)}
        near = [group for group in found if group & linked]
        found = [group for group in found if group not in near] + [linked.union(*near)]
    return [Group(frozenset(stages), _weight(pools, stages)) for stages in found]


def _weight(pools: Sequence[PoolState], stages: set[str]) -> float:
    return max(pool.weight for pool in pools if any(load.stage in stages for load in pool.stages))


def _limits(budget: Budget) -> Mapping[str, float]:
    return dict(budget.devices) | ({PRICE: budget.price_per_hour} if budget.price_per_hour is not None else {})


def _within_room(
    pools: Sequence[PoolState],
    allocation: Allocation,
    needs: Mapping[str, Need],
    memory: Memory,
) -> Mapping[str, int]:
    """What was decided, as far as devices are free: those of replicas that are stopping, or have yet to be stopped, are not."""
    counts, offered = allocation.counts, allocation.offers
    present = {pool.pool: max(pool.running + pool.starting, memory.targets.get(pool.pool, 0)) for pool in pools}
    given = {pool.pool: min(counts[pool.pool], present[pool.pool]) for pool in pools}
    free = dict(allocation.limits)
    for pool in pools:
        for bound, taken in offered[pool.pool].takes.items():
            free[bound] -= taken * (present[pool.pool] + pool.stopping)
    for name in _worst_off_first(pools, allocation, needs):
        takes = offered[name].takes.items()
        while given[name] < counts[name] and all(free[bound] + 1e-9 >= taken for bound, taken in takes):
            given[name] += 1
            for bound, taken in takes:
                free[bound] -= taken
    return given


def _worst_off_first(pools: Sequence[PoolState], allocation: Allocation, needs: Mapping[str, Need]) -> Sequence[str]:
    """Pools, by the part of what their stages need that runs already."""
    running: dict[str, float] = {}
    for pool in pools:
        for stage, added in allocation.offers[pool.pool].adds.items():
            running[stage] = running.get(stage, 0.0) + added * pool.running

    def part(pool: PoolState) -> float:
        needed = {load.stage: needs[load.stage].more or needs[load.stage].usual for load in pool.stages}
        return min((running[stage] / most for stage, most in needed.items() if most > 0), default=float("inf"))

    return [pool.pool for pool in sorted(pools, key=part)]


def _bounds(pools: Sequence[PoolState], starting: Mapping[str, Starting], now: float) -> Mapping[str, Bounds]:
    """A pool whose replicas don't come up gets no more than those that run, and one that goes on trying. One for which items wait where
    none runs gets one in any case: they wait for it, and no other pool of their stage can have them."""
    found = {}
    for pool in pools:
        most, trying = pool.max_replicas, starting.get(pool.pool)
        if trying is not None and now - trying.since > max(_LEAST_PATIENCE_S, STUCK_AFTER * pool.start_up_s):
            most = min(most, max(pool.running + 1, pool.min_replicas))
        is_asked = pool.running == 0 and any(load.num_items for load in pool.stages)
        found[pool.pool] = Bounds(max(pool.min_replicas, min(1, most)) if is_asked else pool.min_replicas, most)
    return found


def _starting(pools: Sequence[PoolState], memory: Memory, now: float) -> Mapping[str, Starting]:
    found = {}
    for pool in pools:
        before = memory.starting.get(pool.pool)
        if pool.starting > 0:
            goes_on = before is not None and pool.running <= before.running
            found[pool.pool] = before if before is not None and goes_on else Starting(now, pool.running)
    return found


def _histories(pools: Sequence[PoolState], settings: Scaling, memory: Memory, now: float) -> Mapping[str, History]:
    found = {}
    for stage in {load.stage: None for pool in pools for load in pool.stages}:
        hosting = [(pool, load) for pool in pools for load in pool.stages if load.stage == stage]
        keep_s = max(max(LONGER * pool.down_after_s, pool.up_after_s) for pool, _ in hosting)
        keep_s = max(keep_s, 2 * PERIODS[-1] * settings.period_s) + settings.period_s
        loads = [load for _, load in hosting]
        work = sum((load.work for load in loads), NO_WORK)
        history = memory.histories.get(stage) or History.begun(now, settings.period_s)
        arriving, leaving = sum(load.arriving for load in loads), sum(load.leaving for load in loads)
        num_items = sum(load.num_items for load in loads)
        history = history.noted(arriving, work, leaving, num_items, now, keep_s)
        backlog = sum((load.backlog for load in loads), NO_WORK)
        found[stage] = history.supposing(backlog * (1 / num_items)) if num_items else history
    return found


def _speeds(pools: Sequence[PoolState]) -> Mapping[tuple[str, str], Speed]:
    return {(pool.pool, load.stage): load.speed for pool in pools for load in pool.stages if load.speed is not None}


def _with_speeds(pool: PoolState, speeds: Mapping[tuple[str, str], Speed]) -> PoolState:
    """A pool without replicas tells no speed."""
    loads = tuple(replace(load, speed=speeds.get((pool.pool, load.stage))) for load in pool.stages)
    return replace(pool, stages=loads)
