"""Within which bounds the scaler may change what was planned.

Decides how few replicas of a pool there may be (so that every stage still has as many as the plan's rules ask for, on as many nodes), how
many (as many as its devices have room for), and the budget that keeps all pools together on the devices that were planned for. Pure.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.planning.fleet import Device
from pipelines.planning.plan import Plan, PlannedPool
from pipelines.settings.schema.orchestration import BudgetConfig
from pipelines.settings.serve.scaled import CPU, GPU

FOR_STAGES = 0.9  # of a node's CPUs; the rest is for the HTTP surface and what watches
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a pool's replicas."""

    least: int
    most: int


def budget(plan: Plan, devices: Sequence[Device], given: BudgetConfig) -> Mapping[str, float]:
    """As the scaler counts devices: those that were planned for, of the types that the plan uses, or fewer where less was allowed."""
    used, counts = {pool.device for pool in plan.pools}, dict[str, float]()
    for device in devices:
        if device.name in used:
            name = counted_as(device)
            counts[name] = counts.get(name, 0.0) + device.count * counted(device, 1.0)
    limits = given.devices or {}
    return limits | {name: min(count, limits.get(name, count)) for name, count in counts.items()}


def allowed(devices: Sequence[Device], given: BudgetConfig) -> tuple[Device, ...]:
    """So many of each type as the budget lets run, where it tells the type from others: more are not planned for."""
    limits, names = given.devices or {}, Counter(counted_as(device) for device in devices)
    return tuple(
        replace(device, count=min(device.count, int(limits[name] / counted(device, 1.0) + ROUNDING)))
        if (name := counted_as(device)) in limits and names[name] == 1
        else device
        for device in devices
    )


def bounds(plan: Plan, devices: Sequence[Device], budget: Mapping[str, float], replicas: int) -> Mapping[str, Bounds]:
    """By pool. `replicas`: of each stage that has something to do there should be as many, on as many nodes."""
    by_name = {device.name: device for device in devices}
    least = _least(plan, by_name, replicas)
    return {pool.name: Bounds(least[pool.name], max(pool.replicas, _most(pool, plan, by_name, budget))) for pool in plan.pools}


def counted_as(device: Device) -> str:
    """The budget's name for it (`pipelines/settings/serve/scaled.py`)."""
    if not device.is_gpu:
        return CPU
    found = device.found_by.get("accelerator_type")
    return found if isinstance(found, str) else GPU


def counted(device: Device, fraction: float) -> float:
    """What the budget counts of a replica on such a part of a device: devices, or CPUs of nodes without any."""
    return fraction if device.is_gpu else cpus(device, fraction)


def cpus(device: Device, fraction: float) -> float:
    """Of the node, for such a part of one of its devices."""
    return math.floor(100 * FOR_STAGES * fraction * device.cpus_per_node / device.per_node) / 100


def _least(plan: Plan, devices: Mapping[str, Device], replicas: int) -> Mapping[str, int]:
    """The pools that are cheapest for their stages are kept first."""
    kept = dict.fromkeys((pool.name for pool in plan.pools), 0)
    pools = sorted(plan.pools, key=lambda pool: ((devices[pool.device].price_per_hour or 0.0) * pool.fraction, pool.name))
    busy: dict[str, float] = {}
    for each in (each for pool in plan.pools for each in pool.stages):
        busy[each.stage] = max(busy.get(each.stage, 0.0), each.busy)
    for stage, part in busy.items():
        wanted = replicas if part > 0 else 1
        hosting = [pool for pool in pools if any(each.stage == stage for each in pool.stages)]
        for pool in hosting:
            while kept[pool.name] < pool.replicas and _nodes(hosting, kept, devices) < wanted:
                kept[pool.name] += 1
    return kept


def _nodes(pools: Sequence[PlannedPool], counts: Mapping[str, int], devices: Mapping[str, Device]) -> int:
    """On how many nodes these replicas may be."""
    on: Counter[str] = Counter()
    for pool in pools:
        on[pool.device] += counts[pool.name]
    return sum(min(count, devices[name].num_nodes) for name, count in on.items())


def _most(pool: PlannedPool, plan: Plan, devices: Mapping[str, Device], budget: Mapping[str, float]) -> int:
    """All devices of its type; where the budget can't tell that type from another, only those that no other pool has."""
    device = devices[pool.device]
    others = [other for other in plan.pools if other.device == pool.device and other is not pool]
    is_told_apart = all(
        counted_as(other) != counted_as(device)
        for name, other in devices.items()
        if name != pool.device and _is_used(name, plan)
    )
    free = device.count - (0.0 if is_told_apart else sum(other.fraction * other.replicas for other in others))
    in_budget = budget.get(counted_as(device), math.inf) / max(ROUNDING, counted(device, pool.fraction))
    return int(min(free / pool.fraction, in_budget) + ROUNDING)


def _is_used(device: str, plan: Plan) -> bool:
    return any(pool.device == device for pool in plan.pools)
