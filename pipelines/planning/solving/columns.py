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

from pipelines.planning.fleet import GIB, Device, Fleet, Measured, Rules
from pipelines.planning.solving.limits import Limit, full_step_s, heaviest, limits, taken_s
from stages.contract.cost import Speed
from stages.contract.work import Work
from stages.host.nesting import needed_by

MANY = 64
FUSED_UP_TO = 4  # stages of one model in every combination; of more only neighbours, and all


@dataclass(frozen=True, slots=True)
class Hosted:
    """A stage within a replica. `speed`: on the whole device, its `max_rows` the batch bound."""

    stage: str
    speed: Speed
    dtype: str


@dataclass(frozen=True, slots=True)
class Column:
    """A kind of replica. `serves`: class and stage, of those whose bounds it keeps. `level`: how often the batch was halved; `why_batch`:
    what speaks against a larger one."""

    device: str
    fraction: float
    hosted: tuple[Hosted, ...]
    level: int
    why_batch: str
    serves: frozenset[tuple[str, str]] = frozenset()
    taken_s: Mapping[tuple[str, str, str], float] = field(default_factory=dict)  # by class, setting of the limit and stage

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(each.stage for each in self.hosted)

    @property
    def rows(self) -> tuple[int, ...]:
        return tuple(each.speed.max_rows for each in self.hosted)

    def speed(self, stage: str) -> Speed:
        return next(each.speed for each in self.hosted if each.stage == stage)

    def rate(self, stage: str, work: Work) -> float:
        """Items a second that a whole device of these replicas does, with nothing else to do."""
        return self.speed(stage).rate(work)


def columns(fleet: Fleet, rules: Rules) -> Sequence[Column]:
    """In the order of the fleet's devices and stages, larger fractions and batches first."""
    bounds = [limit for each in fleet.classes for limit in limits(each)]
    found = candidates(fleet, rules)
    best = spans(found).best
    return useful([_serving(column, fleet, bounds, best) for column in found], fleet, bounds)


def candidates(fleet: Fleet, rules: Rules) -> Sequence[Column]:
    """All that fit into their part of a device, whatever they take."""
    bounds = [limit for each in fleet.classes for limit in limits(each)]
    beside = heaviest(fleet.classes)
    return [
        timed(column, bounds, beside)
        for device in fleet.devices
        for group in groups(fleet.stages, device)
        for fraction in (rules.fractions if device.count < MANY and len(group) == 1 else (1.0,))
        for column in sized(group, device, fraction, fleet, rules)
    ]


def groups(stages: Sequence[str], device: Device) -> Iterator[tuple[str, ...]]:
    """Which stages may share a replica: every one alone, those of one model, and all. One that waits for others shares with all of them or
    with none, so that whatever is chosen, no two pools wait for each other."""
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
        if all(needed <= set(group) or not needed & set(group) for needed in needs):
            yield group


def _of_one_model(parts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    if len(parts) <= FUSED_UP_TO:
        for size in range(2, len(parts) + 1):
            yield from combinations(parts, size)
        return
    yield from ((first, second) for first, second in pairwise(parts))
    yield tuple(parts)


def sized(group: tuple[str, ...], device: Device, fraction: float, fleet: Fleet, rules: Rules) -> Iterator[Column]:
    """The batches of these stages that fit into this part of a device, each half of the one before."""
    found = [fleet.measured.get((stage, device.name)) for stage in group]
    measured = [each for each in found if each is not None]
    if len(measured) < len(group):
        return
    room = fraction * rules.memory_part * device.memory_bytes - rules.process_bytes * device.is_gpu
    why = "the largest that is allowed or was measured"
    for level in range(max(each.speed.max_rows for each in measured).bit_length()):
        rows = [max(1, each.speed.max_rows >> level) for each in measured]
        needed = sum(each.weights_bytes + each.row_bytes * count for each, count in zip(measured, rows, strict=True))
        if needed > room:
            why = f"{_counts(rows)} would need {needed / GIB:.3g} GiB, and there are {max(room, 0) / GIB:.3g}"
            continue
        yield Column(device.name, fraction, tuple(map(_hosted, group, measured, rows)), level, why)


def _counts(rows: Sequence[int]) -> str:
    return "batches of " + " and ".join(map(str, dict.fromkeys(rows)))


def _hosted(stage: str, measured: Measured, rows: int) -> Hosted:
    return Hosted(stage, replace(measured.speed, max_rows=rows), measured.dtype)


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
                found[limit.of_class, limit.setting, each.stage] = seconds
    return replace(column, taken_s=found)


Key = tuple[str, str, str]  # class, setting of the limit, stage


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


def _serving(column: Column, fleet: Fleet, bounds: Sequence[Limit], best: Mapping[Key, float]) -> Column:
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


def useful(found: Sequence[Column], fleet: Fleet, bounds: Sequence[Limit]) -> Sequence[Column]:
    """Those that serve somebody, without batches whose larger sisters give no request less."""
    worst = spans(found, allowed=True).worst
    visited = {demand.stage for each in fleet.classes for demand in each.demands if demand.items > 0}
    kept: list[Column] = []
    larger: dict[tuple[str, float, tuple[str, ...]], list[Column]] = {}
    for column in found:
        beside = larger.setdefault((column.device, column.fraction, column.stages), [])
        is_needed = bool(column.serves) or not visited >= set(column.stages)
        if is_needed and not any(_covers(other, column, bounds, worst) for other in beside):
            kept.append(_explained(column, beside, bounds))
        beside.append(column)
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
                    return replace(column, why_batch=f"{_counts(other.rows)} would take {stage} {seconds:.3g} s ({limit})")
    return column
