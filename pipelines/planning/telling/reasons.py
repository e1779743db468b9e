"""Why the plan is as it is, in words: why a stage runs on this type of device, what speaks against a larger batch, what limits the whole.

Pure. Reads what the program found (speeds, prices of its rows); decides nothing of the plan.
"""

from collections.abc import Iterator, Mapping, Sequence

from pipelines.planning.fleet import Fleet, Rules
from pipelines.planning.plan import Plan, PlannedPool
from pipelines.planning.solving.columns import Column
from pipelines.planning.solving.limits import heaviest
from pipelines.planning.solving.search import Found

WORTH = 1e-6  # requests a second: nothing


def bottleneck(pools: Sequence[PlannedPool]) -> str:
    """The stages without whose replicas the rate would be no higher."""
    where: dict[str, list[str]] = {}
    for pool in pools:
        if pool.one_more > WORTH:
            for each in pool.stages:
                if each.busy > 0:
                    where.setdefault(each.stage, []).append(pool.name)
    return (
        "; ".join(f"{stage} ({', '.join(names)})" for stage, names in where.items())
        or "none: the rate that was asked for is served"
    )


def pool_reasons(pool: PlannedPool, found: Found, fleet: Fleet, rules: Rules) -> Iterator[str]:
    column = next(
        found.columns[at]
        for at, count in enumerate(found.replicas)
        if count == pool.replicas and _is_of(found.columns[at], pool)
    )
    beside = heaviest(fleet.classes)
    rates = {key: measured.speed.rate(beside[key[0]]) for key, measured in fleet.measured.items() if key[0] in beside}
    for each in pool.stages:
        if each.busy > 0:
            yield from _why_here(each.stage, pool, found, rates)
    yield f"batches of {' and '.join(str(each.rows) for each in pool.stages)}: {column.why_batch}"
    if pool.fraction < 1:
        yield f"{pool.fraction:g} of a device: what it is for doesn't fill a whole one"
    if len(pool.stages) > 1:
        yield "in one replica: each alone would leave more of a device unused"
    if pool.utilisation == 0:
        yield f"for safety: {rules.replicas} replicas of each stage, on as many nodes; or no class visits it"
    elif pool.one_more > WORTH:
        yield f"limits the rate: one replica more would bring {pool.one_more:.3g} requests a second"
    if pool.is_estimate:
        yield "its speed is reckoned from datasheets; measure it there with triptych profile"


def _is_of(column: Column, pool: PlannedPool) -> bool:
    return (column.device, column.fraction, column.stages, column.rows) == (
        pool.device,
        pool.fraction,
        tuple(each.stage for each in pool.stages),
        tuple(each.rows for each in pool.stages),
    )


def _why_here(stage: str, pool: PlannedPool, found: Found, rates: Mapping[tuple[str, str], float]) -> Iterator[str]:
    """By comparative advantage: how much a device gains with this stage beside how much it gains with another that runs elsewhere."""
    others = [name for of, name in rates if of == stage and name != pool.device]
    here = rates.get((stage, pool.device))
    if here is None:
        return
    if not others:
        yield f"{stage} runs on no other type of these devices"
        return
    yield f"{stage}: {here:.3g} items/s on a {pool.device}, " + ", ".join(
        f"{rates[stage, name]:.3g} on a {name}" for name in others
    )
    best = max(_contrasts(stage, pool.device, others, found, rates), default=None)
    if best is not None:
        _, gain, name, other, others_gain = best
        yield f"a {pool.device} does {gain:.3g} times a {name}'s {stage}, but {others_gain:.3g} times its {other}"


def _contrasts(
    stage: str, here: str, others: Sequence[str], found: Found, rates: Mapping[tuple[str, str], float]
) -> Iterator[tuple[float, float, str, str, float]]:
    """By how much more this stage gains than another that runs elsewhere, and which."""
    for name in others:
        gain = rates[stage, here] / rates[stage, name]
        for other in _hosted_on(name, found):
            if other != stage and (other, here) in rates and (other, name) in rates:
                others_gain = rates[other, here] / rates[other, name]
                if others_gain < gain:
                    yield gain / others_gain, gain, name, other, others_gain


def _hosted_on(device: str, found: Found) -> Sequence[str]:
    pairs = zip(found.columns, found.replicas, strict=True)
    return tuple(
        dict.fromkeys(stage for column, count in pairs if count and column.device == device for stage in column.stages)
    )


def plan_reasons(plan: Plan) -> Iterator[str]:
    yield f"what limits the rate: {plan.bottleneck}"
    for use in plan.devices:
        if use.used < use.count:
            yield f"{use.count - use.used} of {use.count} {use.device} are left over: nothing that fits there would raise the rate"
    for each in plan.classes:
        for kept in each.bounds:
            if kept.expected_s > 0.8 * kept.bound_s:
                yield f"{each.name}: {kept.setting} {kept.bound_s:g} s is nearly reached ({kept.expected_s:.3g} s in full batches)"
    estimated = [pool.name for pool in plan.pools if pool.is_estimate]
    if estimated:
        yield f"reckoned from datasheets, not measured: {', '.join(estimated)}"
