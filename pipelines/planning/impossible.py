"""What is missing where there is no plan. Pure. Decides which of several reasons is told: the first that more of the rest wouldn't help."""

from collections.abc import Iterator, Sequence

from pipelines.planning.fleet import GIB, Fleet, Rules
from pipelines.planning.solving.columns import Column, candidates, spans
from pipelines.planning.solving.limits import limits
from pipelines.planning.solving.program import Asked, Goal
from stages.contract.errors import ConfigurationError


def refuse_impossible(fleet: Fleet, rules: Rules, asked: Asked) -> None:
    """Raises `ConfigurationError` with a line for every stage that can run nowhere, and every price that is asked for and missing."""
    lines = [line for stage in fleet.stages for line in _stage_faults(stage, fleet, rules)]
    if not any(demand.items > 0 for each in fleet.classes for demand in each.demands):
        lines.append("no class of requests asks anything of these stages")
    if asked.goal is Goal.COST:
        lines += [f"{device.name}: no price_per_hour" for device in fleet.devices if device.price_per_hour is None]
    if lines:
        raise ConfigurationError("no plan is possible:\n  " + "\n  ".join(lines))


def _stage_faults(stage: str, fleet: Fleet, rules: Rules) -> Iterator[str]:
    known = [
        (device, fleet.measured[stage, device.name]) for device in fleet.devices if (stage, device.name) in fleet.measured
    ]
    if not known:
        reasons = "; ".join(reason for (of_stage, _), reason in fleet.why_not.items() if of_stage == stage)
        yield f"{stage}: nothing is known of it on any of these devices ({reasons or 'measure it with triptych profile'})"
        return
    rooms = [rules.memory_part * device.memory_bytes - rules.process_bytes * device.is_gpu for device, _ in known]
    needs = [each.weights_bytes + each.row_bytes for _, each in known]
    if not any(needed <= room for needed, room in zip(needs, rooms, strict=True)):
        least, largest = min(needs), max(device.memory_bytes for device, _ in known)
        dtype = next(each.dtype for (_, each), needed in zip(known, needs, strict=True) if needed == least)
        yield (
            f"{stage} needs {least / GIB:.3g} GiB in {dtype}, one item at a time: no device has it; the largest has {largest / GIB:.3g} "
            f"GiB, of which {max(rooms) / GIB:.3g} may be used"
        )


def misplaced(fleet: Fleet, rules: Rules, every: Sequence[Column]) -> ConfigurationError:
    """Why the stages can't all be placed, or some class gets nothing, with what each stage could run on."""
    lines = [*_late(fleet, rules, every), *_on_too_few_nodes(fleet, rules)]
    if not lines:
        least = {stage: min(column.fraction for column in every if stage in column.stages) for stage in fleet.stages}
        together = ", ".join(f"{stage} {rules.replicas} x {part:g}" for stage, part in least.items())
        count = sum(device.count for device in fleet.devices)
        lines = [
            f"all stages, {rules.replicas} replicas of each, don't fit onto {count} devices; the least that each takes: {together}"
        ]
    return ConfigurationError("no plan is possible:\n  " + "\n  ".join(lines))


def _late(fleet: Fleet, rules: Rules, every: Sequence[Column]) -> Iterator[str]:
    served = {pair for column in every for pair in column.serves}
    best = spans(candidates(fleet, rules)).best
    for each in fleet.classes:
        if all((each.name, demand.stage) in served for demand in each.demands if demand.items > 0):
            continue
        for limit in limits(each):
            taken = {demand.stage: best.get((each.name, limit.setting, demand.stage), 0.0) for demand, _ in limit.path}
            if sum(taken.values()) > limit.bound_s:
                parts = ", ".join(f"{stage} {seconds:.3g} s" for stage, seconds in taken.items())
                yield f"{limit} s: at the quickest, in the smallest batches, it is {sum(taken.values()):.3g} s ({parts})"


def _on_too_few_nodes(fleet: Fleet, rules: Rules) -> Iterator[str]:
    for stage in fleet.stages:
        nodes = sum(device.num_nodes for device in fleet.devices if (stage, device.name) in fleet.measured)
        if nodes < rules.replicas:
            yield f"{stage}: {rules.replicas} replicas on as many nodes are asked for, and it can run on {nodes}"


def too_fast(asked: float, highest: float) -> ConfigurationError:
    return ConfigurationError(f"{asked:g} requests a second are asked for, and these devices serve {highest:.3g} at the most")
