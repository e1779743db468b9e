"""What a replica of each pool adds to each of its stages, in items a second with full batches, and what it costs.

Decides what is supposed where a speed isn't known (the mean of the stage's other pools; where none is known, items in hand stand for
items a second), and how the stages of one process share its device. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.planning.scaling.pool_state import Budget, PoolState
from stages.contract.cost import Speed
from stages.contract.work import Work

PRICE = "price per hour"
"""The budget's bound beside those of device types."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One replica of a pool. `adds`: by stage; `takes`: of each bound of the budget; `cost`: to be compared with other pools'."""

    adds: Mapping[str, float]
    takes: Mapping[str, float]
    cost: float


def item_rates(pools: Sequence[PoolState], items: Mapping[str, Work]) -> Mapping[str, Mapping[str, float]]:
    """Items a second, of a replica that serves only this stage: by stage, by pool. A stage that no pool knows the speed of is left
    out. `items`: the usual item of each stage."""
    found: dict[str, dict[str, float]] = {}
    for stage, item in items.items():
        hosting = [(pool, load) for pool in pools for load in pool.stages if load.stage == stage]
        known = {pool.pool: _rate(load.speed, item) for pool, load in hosting if load.speed is not None and item.amount > 0}
        if known:
            mean = sum(known.values()) / len(known)
            found[stage] = {pool.pool: known.get(pool.pool, mean) * (1 - pool.failing) for pool, _ in hosting}
    return found


def batch_rows(speed: Speed | None, item: Work) -> float:
    """How many items of this kind a replica works on at a time."""
    if speed is None or item.amount <= 0 or item.steps <= 0:
        return 1.0
    return max(1.0, min(speed.max_rows, speed.max_amount * item.steps / item.amount))


def offers(
    pools: Sequence[PoolState], budget: Budget, rates: Mapping[str, Mapping[str, float]], wanted: Mapping[str, float]
) -> Mapping[str, Offer]:
    """By pool. `wanted`: what each stage is to do, by which the stages of one process share its device."""
    costs = _costs(pools, budget)
    return {pool.pool: Offer(_adds(pool, rates, wanted), _takes(pool, budget), costs[pool.pool]) for pool in pools}


def _rate(speed: Speed, item: Work) -> float:
    return speed.rate(Work(item.amount, max(1.0, item.steps)))


def _adds(pool: PoolState, rates: Mapping[str, Mapping[str, float]], wanted: Mapping[str, float]) -> Mapping[str, float]:
    alone = {load.stage: _alone(pool, load.stage, rates) for load in pool.stages}
    busy = {stage: wanted.get(stage, 0.0) / rate for stage, rate in alone.items() if rate > 0 and stage in rates}
    total = sum(busy.values())
    parts = {stage: busy.get(stage, 0.0) / total if total > 0 else 1 / max(1, len(busy)) for stage in busy}
    return {stage: rate * parts.get(stage, 1.0) for stage, rate in alone.items()}


def _alone(pool: PoolState, stage: str, rates: Mapping[str, Mapping[str, float]]) -> float:
    return rates[stage][pool.pool] if stage in rates else pool.items_per_replica * (1 - pool.failing)


def _takes(pool: PoolState, budget: Budget) -> Mapping[str, float]:
    takes = {pool.device: pool.devices} if pool.device in budget.devices else {}
    return takes | ({PRICE: pool.price_per_hour} if budget.price_per_hour is not None and pool.price_per_hour else {})


def _costs(pools: Sequence[PoolState], budget: Budget) -> Mapping[str, float]:
    """Money, where every pool has a price; else the part of what there is of its device; else each replica the same."""
    if all(pool.price_per_hour is not None for pool in pools):
        return {pool.pool: max(1e-9, pool.price_per_hour or 0.0) for pool in pools}
    if all(budget.devices.get(pool.device) for pool in pools):
        return {pool.pool: max(1e-9, pool.devices / budget.devices[pool.device]) for pool in pools}
    return {pool.pool: 1.0 for pool in pools}
