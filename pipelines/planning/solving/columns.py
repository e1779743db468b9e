"""What one replica may be: which stages, on which type of device, with how much of it, in batches of how many.

Pure. Decides which of all combinations the planner looks at: those whose weights and batches fit into their part of the device, and which
keep every bound of some class that needs them. Knows no solver. What is left out here can't be better than what is kept:

- A smaller batch does less a second; it is kept only where a larger one would take a request too long.
- Parts of a device, and several stages in one replica, waste less where there are few devices. Where there are many of a type
  (`MANY`), whole ones do at least as much each, and what is lost by rounding is less than a part in so many. Stages that share a replica
  share a whole device: on a part of one they would do the same as replicas of their own on parts of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise

from pipelines.planning.fleet import GIB, Device, Fleet, Rules
from pipelines.planning.solving.crossings import calls, crossings, handing
from pipelines.planning.solving.limits import Limit, Taken, full_step_s, heaviest, limits, taken_s
from stages.contract.cost import Speed
from stages.contract.work import Work
from stages.host.kinds.nesting import needed_by

MANY = 64
LARGEST = "the largest that is allowed or was measured"
MUCH_LONGER = 4.0  # than another iterative stage's full step
FUSED_UP_TO = 4  # stages of one model in every combination; of more only neighbours, and all


Key = tuple[str, str, str]  # class, setting of the limit, stage


@dataclass(frozen=True, slots=True)
class Hosted:
    """A stage within a replica. `speed`: on the whole device, its `max_rows` the batch bound."""

    stage: str
    speed: Speed
    dtype: str


@dataclass(frozen=True, slots=True)
class Column:
    """A kind of replica. `serves`: class and stage, of those whose bounds it keeps. `taken_s`: what each bound's stages take there.
    `why_batch`: what speaks against larger batches. `crossing_s`: by class and stage, of what goes from one deployment to
    another for it; `handing_s`: by stage, how long that keeps the device from other work, where that is a node's CPUs."""

    device: str
    fraction: float
    hosted: tuple[Hosted, ...]
    why_batch: str
    serves: frozenset[tuple[str, str]] = frozenset()
    taken_s: Mapping[Key, float] = field(default_factory=dict)
    crossing_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    handing_s: Mapping[str, float] = field(default_factory=dict)
    stages: tuple[str, ...] = field(init=False)
    rows: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        """What is asked for a hundred thousand times while a plan is looked for."""
        object.__setattr__(self, "stages", tuple(each.stage for each in self.hosted))
        object.__setattr__(self, "rows", tuple(each.speed.max_rows for each in self.hosted))

    @property
    def kind(self) -> tuple[str, float, tuple[str, ...], tuple[int, ...]]:
        """The same of columns that are the same replicas."""
        return (self.device, self.fraction, self.stages, self.rows)

    def is_at_least(self, other: "Column") -> bool:
        """Of columns with the same stages: in the batch of each."""
        return all(mine >= its for mine, its in zip(self.rows, other.rows, strict=True))

    def speed(self, stage: str) -> Speed:
        return next(each.speed for each in self.hosted if each.stage == stage)

    def rate(self, stage: str, work: Work) -> float:
        """Items a second that a whole device of these replicas does, with nothing else to do."""
        handing_s = self.handing_s.get(stage, 0.0)
        rate = self.speed(stage).rate(work)
        return rate / (1 + rate * handing_s)


def columns(fleet: Fleet, rules: Rules) -> Sequence[Column]:
    """In the order of the fleet's devices and stages, larger fractions and batches first."""
    bounds = [limit for each in fleet.classes for limit in limits(each)]
    found = candidates(fleet, rules)
    best = spans(found).best
    return useful([serving(column, fleet, bounds, best) for column in found], fleet, bounds)


def candidates(fleet: Fleet, rules: Rules) -> Sequence[Column]:
    """All that fit into their part of a device, whatever they take."""
    bounds = [limit for each in fleet.classes for limit in limits(each)]
    beside = heaviest(fleet.classes)
    return [
        timed(column, bounds, beside)
        for device in fleet.devices
        for group in groups(fleet, device)
        for fraction in (rules.fractions if device.count < MANY and len(group) == 1 else (1.0,))
        for column in sized(group, device, fraction, fleet, rules)
    ]


def groups(fleet: Fleet, device: Device) -> Iterator[tuple[str, ...]]:
    """Which stages may share a replica: every one alone, those of one model, and all. One that waits for others shares with all of them or
    with none, so that whatever is chosen, no two pools wait for each other. Where there are as many devices as stages, no row waits at
    every step for a much longer one of another stage's rows: its own stage's time is planned for, not how long its rows would last."""
    stages = fleet.stages
    yield from ((stage,) for stage in stages)
    if device.count >= MANY:
        return
    models: dict[str, list[str]] = {}
    for stage in stages:
        models.setdefault(stage.rpartition(".")[0], []).append(stage)
    together = [group for parts in models.values() for group in _of_one_model(parts)]
    if len(models) > 1:
        together.append(tuple(stages))
    for group in together:
        needs = [set(needed_by(stage, stages)) for stage in group]
        if all(needed <= set(group) or not needed & set(group) for needed in needs) and not _holds_rows_up(
            group, device, fleet
        ):
            yield group


def _holds_rows_up(group: Sequence[str], device: Device, fleet: Fleet) -> bool:
    if sum(each.count for each in fleet.devices) < len(fleet.stages):
        return False
    beside = heaviest(fleet.classes)
    measured = [(fleet.measured.get((stage, device.name)), beside.get(stage)) for stage in group]
    steps = [
        full_step_s(found.speed, work)
        for found, work in measured
        if found is not None and work is not None and not found.speed.is_one_shot
    ]
    return len(steps) > 1 and max(steps) > MUCH_LONGER * min(steps)


def _of_one_model(parts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    if len(parts) <= FUSED_UP_TO:
        for size in range(2, len(parts) + 1):
            yield from combinations(parts, size)
        return
    yield from ((first, second) for first, second in pairwise(parts))
    yield tuple(parts)


def sized(group: tuple[str, ...], device: Device, fraction: float, fleet: Fleet, rules: Rules) -> Iterator[Column]:
    """The batches of these stages that fit into this part of a device, each half of the one before."""
    why = LARGEST
    for level in range(most_rows(group, device, fleet).bit_length()):
        column = hosting(group, device, fraction, fleet, [level] * len(group), why)
        too_much = overfull(column, device, fleet, rules)
        if too_much:
            why = too_much
        else:
            yield column


def most_rows(group: Sequence[str], device: Device, fleet: Fleet) -> int:
    """0: one of them can't run there."""
    measured = [fleet.measured.get((stage, device.name)) for stage in group]
    return max((each.speed.max_rows for each in measured if each is not None), default=0) if None not in measured else 0


def hosting(
    group: tuple[str, ...], device: Device, fraction: float, fleet: Fleet, levels: Sequence[int], why: str = LARGEST
) -> Column:
    """Replicas of these stages, with the batch of each halved so many times."""
    hosted = [
        Hosted(stage, replace(each.speed, max_rows=max(1, each.speed.max_rows >> level)), each.dtype)
        for stage, level in zip(group, levels, strict=True)
        if (each := fleet.measured[stage, device.name])
    ]
    cpus = None if device.is_gpu else device.cpus_per_node
    crossing_s = crossings(group, calls(fleet.classes, fleet.crossing))
    return Column(device.name, fraction, tuple(hosted), why, crossing_s=crossing_s, handing_s=handing(crossing_s, fleet, cpus))


def overfull(column: Column, device: Device, fleet: Fleet, rules: Rules) -> str:
    """What its weights and batches would need of memory, where that is more than there is; else ""."""
    room = column.fraction * rules.memory_part * device.memory_bytes - rules.process_bytes * device.is_gpu
    measured = [fleet.measured[stage, device.name] for stage in column.stages]
    needed = sum(each.weights_bytes + each.row_bytes * count for each, count in zip(measured, column.rows, strict=True))
    return (
        f"{counts(column.rows)} would need {needed / GIB:.3g} GiB, and there are {max(room, 0) / GIB:.3g}"
        if needed > room
        else ""
    )


def counts(rows: Sequence[int]) -> str:
    return "batches of " + " and ".join(map(str, dict.fromkeys(rows)))


def timed(column: Column, bounds: Sequence[Limit], beside: Mapping[str, Work]) -> Column:
    """With what each bound's stages take there."""
    steps = {each.stage: full_step_s(each.speed, beside[each.stage]) for each in column.hosted if each.stage in beside}
    found = {}
    for limit in bounds:
        for each in column.hosted:
            taken = limit.taken(each.stage)
            if taken is not None:
                pause_s = sum(steps.values()) - steps[each.stage]
                seconds = taken_s(*taken, each.speed, beside[each.stage], pause_s, column.fraction)
                if taken[1] is not Taken.STEP:
                    seconds += column.crossing_s.get((limit.of_class, each.stage), 0.0)
                found[limit.of_class, limit.setting, each.stage] = seconds
    return replace(column, taken_s=found)


@dataclass(frozen=True, slots=True)
class Spans:
    """Of every bound and stage, the shortest and the longest that any column takes."""

    best: Mapping[Key, float]
    worst: Mapping[Key, float]


def spans(found: Sequence[Column], allowed: bool = False) -> Spans:
    """`allowed`: of columns that keep their bounds at all."""
    taken: dict[Key, list[float]] = {}
    for column in found:
        for key, seconds in column.taken_s.items():
            if not allowed or (key[0], key[2]) in column.serves:
                taken.setdefault(key, []).append(seconds)
    return Spans({key: min(each) for key, each in taken.items()}, {key: max(each) for key, each in taken.items()})


def serving(column: Column, fleet: Fleet, bounds: Sequence[Limit], best: Mapping[Key, float]) -> Column:
    """With the classes and stages whose bounds it keeps, were the others' stages as quick as anywhere."""
    visits = {
        (each.name, demand.stage)
        for each in fleet.classes
        for demand in each.demands
        if demand.items > 0 and demand.stage in column.stages
    }
    late = {
        (limit.of_class, stage)
        for limit in bounds
        for stage in column.stages
        if limit.taken(stage) is not None and _together(limit, stage, column, best) > limit.bound_s
    }
    return replace(column, serves=frozenset(visits - late))


def _together(limit: Limit, stage: str, column: Column, others: Mapping[Key, float]) -> float:
    keys = [(limit.of_class, limit.setting, demand.stage) for demand, _ in limit.path]
    return sum(column.taken_s[key] if key[2] == stage else others.get(key, 0.0) for key in keys)


def distinct(found: Sequence[Column]) -> Sequence[Column]:
    """The first of those that are the same replicas."""
    return list({column.kind: column for column in reversed(found)}.values())[::-1]


def useful(found: Sequence[Column], fleet: Fleet, bounds: Sequence[Limit]) -> Sequence[Column]:
    """Those that serve somebody, without batches whose larger sisters give no request less."""
    worst = spans(found, allowed=True).worst
    visited = {demand.stage for each in fleet.classes for demand in each.demands if demand.items > 0}
    sisters: dict[tuple[str, float, tuple[str, ...]], list[Column]] = {}
    for column in found:
        sisters.setdefault((column.device, column.fraction, column.stages), []).append(column)
    kept: list[Column] = []
    for column in found:
        larger = [
            other
            for other in sisters[column.device, column.fraction, column.stages]
            if other.rows != column.rows and other.is_at_least(column)
        ]
        is_needed = bool(column.serves) or not visited >= set(column.stages)
        if is_needed and not any(_covers(other, column, bounds, worst) for other in larger):
            kept.append(_explained(column, larger, bounds))
    return kept


def _covers(larger: Column, smaller: Column, bounds: Sequence[Limit], worst: Mapping[Key, float]) -> bool:
    """Whether the smaller batch gives no request more than the larger one."""
    if not larger.serves >= smaller.serves:
        return False
    for limit in bounds:
        for stage in smaller.stages:
            key = (limit.of_class, limit.setting, stage)
            if (limit.of_class, stage) not in smaller.serves or key not in smaller.taken_s:
                continue
            if smaller.taken_s[key] < larger.taken_s[key] and _together(limit, stage, larger, worst) > limit.bound_s:
                return False
    return True


def _explained(column: Column, larger: Sequence[Column], bounds: Sequence[Limit]) -> Column:
    for other in reversed(larger):
        for limit in bounds:
            for stage in column.stages:
                if (limit.of_class, stage) in column.serves - other.serves and limit.taken(stage) is not None:
                    seconds = other.taken_s[limit.of_class, limit.setting, stage]
                    return replace(column, why_batch=f"{counts(other.rows)} would take {stage} {seconds:.3g} s ({limit})")
    return column
