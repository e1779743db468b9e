"""Batches for bounds that are known, and stages that share replicas as far as that helps.

Pure. Decides, once each stage has a longest time to keep, the largest batches of a replica (each stage's for itself); which columns others
make needless then; and, when it is known what each pool has to do, which of its replicas need which of its stages.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pipelines.planning.fleet import Device, Fleet, Rules
from pipelines.planning.solving.columns import (
    MANY,
    Column,
    Key,
    counts,
    groups,
    hosting,
    most_rows,
    overfull,
    serving,
    spans,
    timed,
)
from pipelines.planning.solving.limits import Limit, full_step_s, heaviest, limits
from pipelines.planning.solving.program import Solution
from stages.contract.work import Work
from stages.host.kinds.nesting import needed_by

ROUNDING = 1e-6


def fitted(fleet: Fleet, rules: Rules, most: Mapping[Key, float]) -> Sequence[Column]:
    """One column for every group of stages and part of a device that can keep these times."""
    bounds = [limit for each in fleet.classes for limit in limits(each)]
    beside = heaviest(fleet.classes)
    found = [
        column
        for device in fleet.devices
        for group in groups(fleet, device)
        for fraction in (rules.fractions if device.count < MANY and len(group) == 1 else (1.0,))
        if (column := _largest(group, device, fraction, fleet, rules, bounds, beside, most)) is not None
    ]
    best = spans(found).best
    return [serving(column, fleet, bounds, best) for column in found]


def _largest(
    group: tuple[str, ...],
    device: Device,
    fraction: float,
    fleet: Fleet,
    rules: Rules,
    bounds: Sequence[Limit],
    beside: Mapping[str, Work],
    most: Mapping[Key, float],
) -> Column | None:
    """From the largest batches down: what keeps memory or times from fitting is halved, until all fits."""
    levels = [0] * len(group)
    why = ""
    for _ in range(len(group) * most_rows(group, device, fleet).bit_length()):
        column = hosting(group, device, fraction, fleet, levels)
        too_much = overfull(column, device, fleet, rules)
        late = ""
        if not too_much:
            column = timed(column, bounds, beside)
            late = _late(column, most)
        if not too_much and not late:
            return replace(column, why_batch=why or column.why_batch)
        why = too_much or late
        if max(column.rows) == 1:
            return None
        if too_much:
            sizes = [fleet.measured[each.stage, device.name].row_bytes * each.speed.max_rows for each in column.hosted]
        else:
            sizes = [full_step_s(each.speed, beside[each.stage]) if each.stage in beside else 0.0 for each in column.hosted]
        largest = max(range(len(group)), key=lambda at: (column.rows[at] > 1, sizes[at]))
        levels[largest] += 1
    return None


def _late(column: Column, most: Mapping[Key, float]) -> str:
    for key, seconds in column.taken_s.items():
        if seconds > most.get(key, math.inf) * (1 + ROUNDING):
            return f"{counts(column.rows)} would take {key[2]} {seconds:.3g} s ({key[0]}: {key[1]})"
    return ""


def enlarged(among: Sequence[Column], replicas: Sequence[int]) -> Sequence[int]:
    """The same replicas with the largest batches that serve as many."""
    found = [0] * len(among)
    for column, count in zip(among, replicas, strict=True):
        if count:
            sisters = [
                (sum(other.rows), -at)
                for at, other in enumerate(among)
                if other.fraction == column.fraction and covers(other, column)
            ]
            found[-max(sisters)[1]] += count
    return found


def covers(larger: Column, column: Column) -> bool:
    """Whether it does the same, of a part of the device that may be larger, in batches that may be."""
    is_same = (larger.device, larger.stages) == (column.device, column.stages)
    return is_same and larger.serves >= column.serves and larger.is_at_least(column)


def maximal(found: Sequence[Column]) -> Sequence[Column]:
    """Without columns that do nothing which another on a whole device of the same type doesn't do beside more: once times are kept, whoever
    hosts a stage more can still leave it unused. `split` takes the unused ones out again."""
    whole = [column for column in found if column.fraction == 1]
    return [column for column in found if not any(_does_all(other, column) for other in whole if column.fraction == 1)]


def likeliest(found: Sequence[Column], relaxation: Solution, most: int) -> Sequence[Column]:
    """Those that the relaxation has replicas of, and of each type of device those others with the least reduced costs (what a column would
    have to gain before it is worth a device), `most` together."""
    cost = [reduced / column.fraction for column, reduced in zip(found, relaxation.reduced, strict=True)]
    order = sorted(range(len(found)), key=lambda at: (relaxation.replicas[at] <= ROUNDING, cost[at] > ROUNDING, cost[at]))
    taken: dict[str, int] = {}
    chosen = []
    for at in order:
        device = found[at].device
        if relaxation.replicas[at] > ROUNDING or taken.get(device, 0) < most:
            taken[device] = taken.get(device, 0) + 1
            chosen.append(at)
    return [found[at] for at in sorted(chosen)]


def _does_all(more: Column, less: Column) -> bool:
    return (
        more.device == less.device
        and set(more.stages) > set(less.stages)
        and more.serves >= less.serves
        and all(more.speed(each.stage).max_rows >= each.speed.max_rows for each in less.hosted)
    )


def split(
    column: Column, replicas: int, loads: Mapping[str, float], least: Mapping[str, int], utilisation: float
) -> Iterator[tuple[Column, int]]:
    """`loads`: of the pool, by stage, in whole devices' time; `least`: replicas that a stage must have here whatever it has to do. Columns
    and replicas that do the same, with each stage in as few replicas as will do: those with little to do in the first ones, all in a nest,
    so that every replica has room for what it must do (Hall's condition along the nest). What a stage needs stays at hand where it
    would be late, or CPUs busy, if that came from elsewhere."""
    room = utilisation * column.fraction
    stages = sorted(column.stages, key=lambda stage: (loads.get(stage, 0.0), column.stages.index(stage)))
    ends: dict[str, int] = {}
    done, end = 0.0, 0
    for stage in stages:
        done += loads.get(stage, 0.0)
        needed = math.ceil(done / room - ROUNDING) if loads.get(stage) else 0
        end = max(end, min(replicas, max(needed, least.get(stage, 0))))
        ends[stage] = end
    for stage in stages:
        needs = needed_by(stage, column.stages)  # whoever waits for others has all of them at hand, or none
        end = max((ends[need] for need in needs), default=0)
        ends |= dict.fromkeys(needs, max(end, ends[stage]) if _is_pressed(stage, column) else end)
    begin = 0
    for end in sorted(set(ends.values()) - {0}):
        hosted = tuple(each for each in column.hosted if ends[each.stage] >= end)
        stages_here = {each.stage for each in hosted}
        serves = frozenset(pair for pair in column.serves if pair[1] in stages_here)
        yield replace(column, hosted=hosted, serves=serves), end - begin
        begin = end


def _is_pressed(stage: str, column: Column) -> bool:
    """Whether it matters what goes from one deployment to another for it."""
    is_bound = any(key[2] == stage and (key[0], stage) in column.crossing_s and key[1] != "token_s" for key in column.taken_s)
    return is_bound or stage in column.handing_s
