"""The search for a plan.

Decides how the program is solved: with few columns before many; with bounds on several stages' times added where a solution breaks them;
and that replicas which nothing needs are left off again. No clock but the one that is handed in.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.planning.fleet import Device, Fleet, Rules
from pipelines.planning.solving.columns import Column, columns, distinct, spans, useful
from pipelines.planning.solving.diving import dive
from pipelines.planning.solving.fitting import covers, enlarged, fitted, likeliest, maximal, split
from pipelines.planning.solving.limits import Limit, limits
from pipelines.planning.solving.program import Asked, Goal, Solution, Written, relaxed, solved, written
from pipelines.planning.solving.times import Times, longest, narrowed, stretched, total, ways

ROUNDING = 1e-6
ROUND_S = 1.0  # for a round of the solver, however late it is
SHARE = 0.5  # of the time that is left, for each round of the solver
NEARLY = 0.1  # of all time: too little for another
FOR_PLAN = 0.8  # of all time; the rest is for what one more device would bring
ROUNDS = (4, 8, 16)  # columns for each type of device, before all of them


@dataclass(frozen=True, slots=True)
class Patience:
    """`time_limit_s` for everything that is solved; the solver stops earlier where no plan is better by more than `gap` (a part)."""

    time_limit_s: float = 30.0
    gap: float = 1e-3
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Found:
    """Replicas by column, and how the requests are shared out among them. `value`: the rate, or the cost an hour. `among`: all columns that
    these were chosen from."""

    columns: Sequence[Column]
    replicas: Sequence[int]
    shared: Solution
    value: float
    among: Sequence[Column]


@dataclass(slots=True)
class _Way:
    """Of sharing out the bounds on requests' times. `narrow`: the columns that keep them, `among`: of those, the ones that are looked at;
    `relaxation`: over these. `closes`: some column would keep bounds that it doesn't keep so. `is_searched`: all of them were looked at."""

    narrow: Sequence[Column]
    among: Sequence[Column]
    relaxation: Solution
    closes: bool
    is_searched: bool = False


@dataclass(slots=True)
class Search:
    """One search, within its time."""

    fleet: Fleet
    rules: Rules
    asked: Asked
    patience: Patience
    every: Sequence[Column] = field(init=False)
    _bounds: Sequence[Limit] = field(init=False)
    _ends: float = field(init=False)

    def __post_init__(self) -> None:
        self._ends = self.patience.clock() + FOR_PLAN * self.patience.time_limit_s
        self._bounds = [limit for each in self.fleet.classes for limit in limits(each)]
        self.every = columns(self.fleet, self.rules)

    def highest_rate(self) -> float | None:
        """If replicas could be divided; None: the stages can't all be placed."""
        found = relaxed(written(self.fleet, self.rules, self.every, Asked()), Asked())
        return None if found is None else found.rate

    def best(self, scale: float) -> tuple[Found | None, float]:
        """The best that was found, and the bound. `scale`: about the rate.

        First with a longest time for every stage, so that all bounds are kept: few columns are left then. If the best of those is found in
        time, other longest times are tried, and then all columns."""
        relaxation = self._relaxed(self.every, scale)
        if relaxation is None:
            return None, 0.0
        tried = ways(self._bounds, longest(self._bounds, relaxation, self.every), spans(self.every).best)
        self.every = distinct([*self.every, *(column for most in tried for column in fitted(self.fleet, self.rules, most))])
        return self._with_longest(tried, scale)

    def _with_longest(self, tried: Sequence[Times], scale: float) -> tuple[Found | None, float]:
        """Few columns of every way of sharing out the bounds are searched before many of any: which way is best, few tell already."""
        relaxation = self._relaxed(self.every, scale)
        bound = relaxation.bound if relaxation is not None else self._loosest()
        ways = [way for most in tried if (way := self._way(most, scale)) is not None]
        ways.sort(key=lambda way: -self._value(way.relaxation))
        best: Found | None = None
        for most in (*ROUNDS, len(self.every)):
            for way in ways:
                best, other = self._round(way, most, best, scale)
                if not way.closes:
                    bound = self._tighter(bound, other)
                if self._is_done(best, bound) or self._is_nearly_over() or (way.is_searched and not way.closes):
                    return best, bound
        among_all, other = self._among_all(best, scale)
        return self._better(best, among_all), self._tighter(bound, other)

    def _way(self, most: Times, scale: float) -> "_Way | None":
        """None: with these times the stages can't all be placed."""
        narrow = self._narrowed(most)
        among = maximal(narrow)
        relaxation = self._relaxed(among, scale)
        return None if relaxation is None else _Way(narrow, among, relaxation, self._closes(most))

    def _closes(self, most: Times) -> bool:
        """Whether these times close any column to a class that it serves."""
        return any(narrowed(column, most).serves != column.serves for column in self.every)

    def _value(self, solution: Solution) -> float:
        return solution.bound if self.asked.goal is Goal.RATE else -solution.bound

    def _relaxed(self, among: Sequence[Column], scale: float) -> Solution | None:
        return relaxed(written(self.fleet, self.rules, among, self.asked, scale=scale), self.asked)

    def _round(self, way: "_Way", most: int, best: Found | None, scale: float) -> tuple[Found | None, float]:
        """What is better than `best` among so many columns of each type of device, else that; and the bound of the way's columns. First
        the few that the relaxation likes most: of those the solver finds in a second what it may not find among all in a minute."""
        if way.is_searched:
            return best, way.relaxation.bound
        few = likeliest(way.among, way.relaxation, most)
        if best is None:
            dived = dive(self.fleet, self.rules, few, self.asked, scale, self._is_nearly_over)
            best = None if dived is None else self._shared(few, way.narrow, dived, scale)
        program = written(self.fleet, self.rules, few, self.asked, scale=scale, at_least=self._at_least(best))
        solution = self._solved(program)
        if solution is not None:
            replicas = [round(count) for count in solution.replicas]
            best = self._better(best, self._shared(few, way.narrow, replicas, scale))
        way.is_searched = len(few) == len(way.among)
        return best, way.relaxation.bound if solution is None or not way.is_searched else solution.bound

    def _solved(self, program: Written) -> Solution | None:
        left_s = max(ROUND_S, SHARE * self._left_s())
        return solved(program, self.asked, time_limit_s=left_s, gap=self.patience.gap)

    def _among_all(self, best: Found | None, scale: float) -> tuple[Found | None, float]:
        """Bounds that a solution breaks are written into the program, and it is solved again."""
        together: list[Limit] = []
        bound, at_least = self._loosest(), self._at_least(best)
        while not self._is_nearly_over():
            program = written(self.fleet, self.rules, self.every, self.asked, together, scale, at_least=at_least)
            solution = self._solved(program)
            if solution is None:
                break
            bound = self._tighter(bound, solution.bound)
            used = longest(self._bounds, solution, self.every)
            broken = [limit for limit in self._bounds if total(limit, used) > limit.bound_s * (1 + ROUNDING)]
            if not broken:
                narrow = [narrowed(column, stretched(self._bounds, used)) for column in self.every]
                return self._shared(narrow, narrow, [round(count) for count in solution.replicas], scale), bound
            together += broken
        return None, bound

    def _at_least(self, best: Found | None) -> float:
        return 0.0 if best is None or self.asked.goal is Goal.COST else best.value * (1 - ROUNDING)

    def _left_s(self) -> float:
        return self._ends - self.patience.clock()

    def _is_nearly_over(self) -> bool:
        return self._left_s() <= NEARLY * self.patience.time_limit_s

    def _loosest(self) -> float:
        return math.inf if self.asked.goal is Goal.RATE else 0.0

    def _tighter(self, one: float, other: float) -> float:
        return min(one, other) if self.asked.goal is Goal.RATE else max(one, other)

    def _is_done(self, found: Found | None, bound: float) -> bool:
        return found is not None and self.gap(found.value, bound) <= self.patience.gap

    def gap(self, value: float, bound: float) -> float:
        """How much better the bound is, as a part of it."""
        return max(0.0, (bound - value if self.asked.goal is Goal.RATE else value - bound) / bound) if bound else 0.0

    def _narrowed(self, most: Times) -> Sequence[Column]:
        return useful([narrowed(column, most) for column in self.every], self.fleet, self._bounds)

    def _shared(self, few: Sequence[Column], among: Sequence[Column], replicas: Sequence[int], scale: float) -> Found | None:
        """With these replicas at the most; None: they don't do."""
        few, replicas = self._whole(few, enlarged(few, replicas), among)
        first = self._fixed(few, replicas, scale)
        if first is None:
            return None
        chosen, counts = self._trimmed(few, replicas, first)
        shared = self._fixed(chosen, counts, scale)
        if shared is None:
            return None
        chosen, counts = self._split(chosen, counts, shared)
        shared = self._fixed(chosen, counts, scale)
        if shared is None:
            return None
        is_rate = self.asked.goal is Goal.RATE
        value = shared.rate if is_rate else cost_per_hour(self.fleet, chosen, counts)
        return Found(chosen, counts, shared, value, among)

    def _whole(
        self, few: Sequence[Column], replicas: Sequence[int], among: Sequence[Column]
    ) -> tuple[Sequence[Column], Sequence[int]]:
        """With one replica on a whole device for as many as fill one, where the stages can still be on as many nodes: its weights are there
        once, and its batches are as quick as the device."""
        columns, counts = list(few), list(replicas)
        wanted = wanted_replicas(self.fleet, self.rules)
        for at, column in enumerate(few):
            whole = next((other for other in among if other.fraction == 1 > column.fraction and covers(other, column)), None)
            devices = int(counts[at] * column.fraction)
            if whole is None or not devices:
                continue
            tried = [*counts, devices]
            tried[at] -= int(devices / column.fraction)
            more = [*columns, whole]
            if all(spread(self.fleet.devices, more, tried, stage) >= wanted[stage] for stage in column.stages):
                columns, counts = more, tried
        return columns, counts

    def _fixed(self, among: Sequence[Column], replicas: Sequence[int], scale: float) -> Solution | None:
        between = [(count, count) for count in replicas]
        return relaxed(written(self.fleet, self.rules, among, self.asked, scale=scale, between=between), self.asked)

    def _trimmed(
        self, among: Sequence[Column], replicas: Sequence[int], shared: Solution
    ) -> tuple[Sequence[Column], Sequence[int]]:
        """Without those that nothing needs: no request, and no stage for its replicas."""
        needed = [
            min(count, math.ceil(sum(loads.values()) / (self.rules.utilisation * column.fraction) - ROUNDING))
            for column, loads, count in zip(among, loads_of(among, shared), replicas, strict=True)
        ]
        for stage, wanted in wanted_replicas(self.fleet, self.rules).items():
            raise_to(wanted, stage, self.fleet.devices, among, needed, replicas)
        kept = [at for at, count in enumerate(needed) if count]
        return [among[at] for at in kept], [needed[at] for at in kept]

    def _split(
        self, chosen: Sequence[Column], replicas: Sequence[int], shared: Solution
    ) -> tuple[Sequence[Column], Sequence[int]]:
        """With stages only in the replicas that need them."""
        loads = loads_of(chosen, shared)
        least: list[dict[str, int]] = [{} for _ in chosen]
        for stage, wanted in wanted_replicas(self.fleet, self.rules).items():
            parts = [self.rules.utilisation * column.fraction for column in chosen]
            needed = [
                min(count, math.ceil(load.get(stage, 0.0) / part - ROUNDING))
                for count, load, part in zip(replicas, loads, parts, strict=True)
            ]
            raise_to(wanted, stage, self.fleet.devices, chosen, needed, replicas)
            for at, count in enumerate(needed):
                least[at][stage] = count
        found: dict[object, tuple[Column, int]] = {}
        for column, count, load, few in zip(chosen, replicas, loads, least, strict=True):
            for part, times in split(column, count, load, few, self.rules.utilisation):
                found[part.kind] = (part, found.get(part.kind, (part, 0))[1] + times)
        return [column for column, _ in found.values()], [count for _, count in found.values()]

    def _better(self, one: Found | None, other: Found | None) -> Found | None:
        if one is None or other is None:
            return one or other
        is_better = other.value > one.value if self.asked.goal is Goal.RATE else other.value < one.value
        return other if is_better else one


def raise_to(
    wanted: int, stage: str, devices: Sequence[Device], columns: Sequence[Column], replicas: list[int], most: Sequence[int]
) -> None:
    """One replica after another, where more are possible, until the stage can be on so many nodes."""
    for at, column in enumerate(columns):
        while stage in column.stages and replicas[at] < most[at] and spread(devices, columns, replicas, stage) < wanted:
            replicas[at] += 1


def loads_of(columns: Sequence[Column], shared: Solution) -> Sequence[Mapping[str, float]]:
    """By column, what each of its stages has to do, in whole devices' time."""
    loads: list[dict[str, float]] = [{} for _ in columns]
    for (_, stage, at), busy in shared.busy.items():
        loads[at][stage] = loads[at].get(stage, 0.0) + busy
    return loads


def wanted_replicas(fleet: Fleet, rules: Rules) -> Mapping[str, int]:
    """By stage, of those that some class visits as many as the rules say, of the others one."""
    visited = {demand.stage for each in fleet.classes for demand in each.demands if demand.items > 0}
    return {stage: rules.replicas if stage in visited else 1 for stage in fleet.stages}


def spread(devices: Sequence[Device], columns: Sequence[Column], replicas: Sequence[int], stage: str) -> int:
    """On how many nodes a stage's replicas may be."""
    hosts = [(column.device, count) for column, count in zip(columns, replicas, strict=True) if stage in column.stages]
    return sum(min(device.num_nodes, sum(count for name, count in hosts if name == device.name)) for device in devices)


def whole_devices(columns: Sequence[Column], replicas: Sequence[int], device: str) -> int:
    """That so many replicas fill or begin."""
    pairs = zip(columns, replicas, strict=True)
    return math.ceil(sum(column.fraction * count for column, count in pairs if column.device == device) - ROUNDING)


def cost_per_hour(fleet: Fleet, columns: Sequence[Column], replicas: Sequence[int]) -> float:
    prices = {device.name: device.price_per_hour or 0.0 for device in fleet.devices}
    return sum(price * whole_devices(columns, replicas, name) for name, price in prices.items())
