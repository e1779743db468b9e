"""From what was found to a plan that can be read: pools with names, what each class and device gets, and what limits it. Pure; decides
nothing that changes what runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipelines.planning.fleet import Demand, Device, Fleet, Rules
from pipelines.planning.plan import DeviceUse, Kept, Plan, PlannedClass, PlannedPool, PlannedStage, Share
from pipelines.planning.solving.columns import Column
from pipelines.planning.solving.limits import limits
from pipelines.planning.solving.program import TINY, Asked
from pipelines.planning.solving.search import Found, cost_per_hour, whole_devices
from pipelines.planning.solving.times import keys, longest
from pipelines.planning.telling.naming import pool_names
from pipelines.planning.telling.packing import packed
from pipelines.planning.telling.reasons import bottleneck, plan_reasons, pool_reasons


def assembled(
    fleet: Fleet,
    rules: Rules,
    asked: Asked,
    found: Found,
    bound: float,
    gap: float,
    one_more: Mapping[str, float],
    how_one_more: str,
) -> Plan:
    """`one_more`: by type of device, what another would bring."""
    used = [at for at, count in enumerate(found.replicas) if count]
    names = dict(zip(used, pool_names([found.columns[at] for at in used], fleet.stages), strict=True))
    pools = sorted((_pool(at, name, fleet, found) for at, name in names.items()), key=lambda pool: pool.name)
    pools = [replace(pool, reasons=tuple(pool_reasons(pool, found, fleet, rules))) for pool in pools]
    has_prices = all(device.price_per_hour is not None for device in fleet.devices)
    plan = Plan(
        goal=asked.goal.value,
        rate=found.shared.rate,
        target_utilisation=rules.utilisation,
        bound=bound,
        gap=gap,
        cost_per_hour=cost_per_hour(fleet, found.columns, found.replicas) if has_prices else None,
        pools=tuple(pools),
        classes=_classes(fleet, found),
        shares=_shares(fleet, found, names),
        devices=tuple(_use(device, found, names, one_more.get(device.name)) for device in fleet.devices),
        bottleneck=bottleneck(pools),
        how_one_more=how_one_more,
    )
    return replace(plan, reasons=tuple(plan_reasons(plan)))


def _pool(at: int, name: str, fleet: Fleet, found: Found) -> PlannedPool:
    column, replicas = found.columns[at], found.replicas[at]
    room = column.fraction * replicas
    busy = {
        stage: sum(part for (_, of, to), part in found.shared.busy.items() if (of, to) == (stage, at))
        for stage in column.stages
    }
    stages = [
        PlannedStage(
            each.stage, each.speed.corrected(each.speed.factor / column.fraction), each.dtype, busy[each.stage] / room
        )
        for each in column.hosted
    ]
    return PlannedPool(
        name=name,
        device=column.device,
        fraction=column.fraction,
        replicas=replicas,
        stages=tuple(stages),
        utilisation=sum(busy.values()) / room,
        one_more=max(0.0, found.shared.worth[at]),
        is_estimate=any(each.speed.is_estimate for each in column.hosted),
    )


def _demands(fleet: Fleet) -> Mapping[tuple[str, str], Demand]:
    return {(each.name, demand.stage): demand for each in fleet.classes for demand in each.demands}


def _shares(fleet: Fleet, found: Found, names: Mapping[int, str]) -> tuple[Share, ...]:
    demands = _demands(fleet)
    shares = [
        Share(of_class, stage, names[at], busy * found.columns[at].rate(stage, demands[of_class, stage].work))
        for (of_class, stage, at), busy in found.shared.busy.items()
        if at in names
    ]
    return tuple(sorted(shares, key=lambda share: (share.of_class, fleet.stages.index(share.stage), share.pool)))


def _classes(fleet: Fleet, found: Found) -> tuple[PlannedClass, ...]:
    total = sum(each.rate for each in fleet.classes)
    taken = longest([limit for each in fleet.classes for limit in limits(each)], found.shared, found.columns)
    return tuple(
        PlannedClass(
            each.name,
            found.shared.rate * each.rate / total,
            tuple(
                Kept(
                    limit.setting,
                    limit.bound_s,
                    sum(taken.get(key, 0.0) for key in keys(limit)),
                )
                for limit in limits(each)
            ),
        )
        for each in fleet.classes
    )


def _use(device: Device, found: Found, names: Mapping[int, str], one_more: float | None) -> DeviceUse:
    mine: Sequence[tuple[int, Column]] = [(at, found.columns[at]) for at in names if found.columns[at].device == device.name]
    busy = sum(part for (_, _, at), part in found.shared.busy.items() if found.columns[at].device == device.name)
    return DeviceUse(
        device=device.name,
        count=device.count,
        used=whole_devices(found.columns, found.replicas, device.name),
        utilisation=busy / device.count if device.count and busy > TINY else 0.0,
        one_more=one_more,
        layouts=tuple(packed([(names[at], column.fraction, found.replicas[at]) for at, column in mine])),
    )
