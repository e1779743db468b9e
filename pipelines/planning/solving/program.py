"""The plan as a mixed-integer linear program, and its solution by HiGHS (`scipy.optimize.milp`: Huangfu and Hall, 2018).

Decides the variables and the rows; what a column is, and what becomes of the solution, it doesn't know.

Variables: the rate; of each column how many replicas (whole), of each column, class and stage how much of a device's time goes there, and,
where cost counts, of each type how many devices are bought (whole). Rows: all of a class's items go somewhere; a column does no more
than its replicas may; replicas fit onto the devices. A fraction is a half of a half, so whatever adds up to whole devices can be packed
onto them without a rest: a row for each type is exact. Where the times of several stages must add up to less than a bound, each stage
chooses the longest time that it allows (one of its columns'), and columns that take longer are closed to the class: rows that are added
only for bounds that a solution without them breaks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array, vstack

from pipelines.planning.fleet import Fleet, Rules
from pipelines.planning.solving.columns import Column
from pipelines.planning.solving.limits import Limit
from pipelines.planning.solving.quiet import quiet

Flow = tuple[str, str, int]  # class, stage, index of the column
TINY = 1e-9  # of a device's time: nothing
EPSILON = 1e-6  # of the objective: of two plans as good, the one with fewer devices
CROSSED = 1e-6  # and for each of a request's results that goes from one replica to another: the one with fewer of those


class Goal(StrEnum):
    """What is to be as large, or as small, as it can be."""

    RATE = "rate"
    COST = "cost"


@dataclass(frozen=True, slots=True)
class Asked:
    """`rate`: of all classes together, in requests a second; None: as high as can be (then `goal` is RATE)."""

    goal: Goal = Goal.RATE
    rate: float | None = None


@dataclass(slots=True)
class Rows:
    """A program while it is written: variables with bounds, and rows over them."""

    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    rows: list[tuple[dict[int, float], float, float]] = field(default_factory=list)

    def variable(self, upper: float = np.inf, *, whole: bool = False, cost: float = 0.0) -> int:
        self.lower.append(0.0)
        self.upper.append(upper)
        self.whole.append(int(whole))
        self.cost.append(cost)
        return len(self.cost) - 1

    def row(self, entries: Mapping[int, float], lower: float, upper: float) -> int:
        self.rows.append((dict(entries), lower, upper))
        return len(self.rows) - 1

    def matrix(self) -> csr_array:
        entries = [(at, column, value) for at, (row, _, _) in enumerate(self.rows) for column, value in row.items()]
        at, columns, values = zip(*entries, strict=True) if entries else ((), (), ())
        return csr_array((values, (at, columns)), shape=(len(self.rows), len(self.cost)))


@dataclass(frozen=True, slots=True)
class Solution:
    """`rate`: of all classes, at the planned utilisation. `replicas`: by index of the column. `busy`: by class, stage and column, in
    whole devices' time. `bound`: no plan has a higher rate (or a lower cost), as far as the solver came. `worth`: by index of the column,
    by how much the rate rises with one replica more, all else as it is, and `reduced`: its reduced cost; of a relaxed solution only."""

    rate: float
    replicas: Sequence[float]
    busy: Mapping[Flow, float]
    bound: float
    worth: Sequence[float] = ()
    reduced: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """A program, with where what stands in it."""

    rows: Rows
    rate: int
    replicas: Sequence[int]
    busy: Mapping[Flow, int]
    capacity: Sequence[int]  # rows, by index of the column
    parts: Sequence[float]  # of a device's time, by index of the column, that one replica adds
    scale: float
    preferences: float  # the most that epsilons add to the objective


def written(
    fleet: Fleet,
    rules: Rules,
    columns: Sequence[Column],
    asked: Asked,
    together: Sequence[Limit] = (),
    scale: float = 1.0,
    between: Sequence[tuple[int, int]] | None = None,
    at_least: float = 0.0,
) -> Written:
    """`together`: bounds whose stages choose their longest times. `scale`: about the rate that will be found, so that the solver's
    tolerances mean something. `between`: how many replicas there must be and may be, by column; left out: as many as there is room for.
    `at_least`: a rate that is known to be possible."""
    rows = Rows()
    wanted = np.inf if asked.rate is None else asked.rate
    rate = rows.variable(wanted / scale, cost=-1.0 if asked.goal is Goal.RATE else 0.0)
    rows.lower[rate] = (wanted if asked.goal is Goal.COST else at_least) / scale
    replicas = _replicas(rows, fleet, columns, between)
    crossed = CROSSED if asked.goal is Goal.RATE else 0.0
    busy = _flows(rows, fleet, columns, rate, scale, crossed)
    capacity = _capacities(rows, columns, rules, replicas, busy)
    _devices(rows, fleet, columns, replicas, asked)
    _spread(rows, fleet, rules, columns, replicas)
    for limit in together:
        _chosen_times(rows, fleet, columns, limit, busy)
    parts = [rules.utilisation * column.fraction for column in columns]
    preferences = EPSILON + crossed * _most_crossings(fleet, columns)
    return Written(rows, rate, replicas, busy, capacity, parts, scale, preferences)


def _replicas(rows: Rows, fleet: Fleet, columns: Sequence[Column], between: Sequence[tuple[int, int]] | None) -> Sequence[int]:
    room = between or [(0, most) for most in most_replicas(fleet, columns)]
    found = [rows.variable(most, whole=True) for _, most in room]
    for variable, (least, _) in zip(found, room, strict=True):
        rows.lower[variable] = least
    return found


def most_replicas(fleet: Fleet, columns: Sequence[Column]) -> Sequence[int]:
    """By column, as many as all devices of its type have room for."""
    counts = {device.name: device.count for device in fleet.devices}
    return [int(counts[column.device] / column.fraction) for column in columns]


def _flows(rows: Rows, fleet: Fleet, columns: Sequence[Column], rate: int, scale: float, crossed: float) -> Mapping[Flow, int]:
    """In the time of whole devices: then no coefficient is far from 1. `crossed`: of the objective, for a result of every request
    that goes from one deployment to another."""
    busy: dict[Flow, int] = {}
    total = sum(each.rate for each in fleet.classes)
    for each in fleet.classes:
        for demand in each.demands:
            if demand.items <= 0:
                continue
            per_request = each.rate / total * demand.items * scale
            entries = {rate: -1.0}
            for index, column in enumerate(columns):
                if (each.name, demand.stage) in column.serves:
                    requests = column.rate(demand.stage, demand.work) / per_request
                    results = column.crossing_s.get((each.name, demand.stage), 0.0) / fleet.crossing.seconds(0.0)
                    cost = crossed * results * requests * per_request / scale
                    flow = busy[each.name, demand.stage, index] = rows.variable(cost=cost)
                    entries[flow] = requests
            rows.row(entries, 0.0, 0.0)
    return busy


def _most_crossings(fleet: Fleet, columns: Sequence[Column]) -> float:
    """Of one request of the mix, in results without any bytes."""
    total, one_s = sum(each.rate for each in fleet.classes), fleet.crossing.seconds(0.0)
    most: dict[tuple[str, str], float] = {}
    for key, seconds in ((key, seconds) for column in columns for key, seconds in column.crossing_s.items()):
        most[key] = max(most.get(key, 0.0), seconds / one_s)
    demands = [(each, demand) for each in fleet.classes for demand in each.demands]
    return sum(each.rate / total * demand.items * most.get((each.name, demand.stage), 0.0) for each, demand in demands)


def _capacities(
    rows: Rows, columns: Sequence[Column], rules: Rules, replicas: Sequence[int], busy: Mapping[Flow, int]
) -> Sequence[int]:
    flows: dict[int, list[int]] = {}
    for (_, _, index), flow in busy.items():
        flows.setdefault(index, []).append(flow)
    return [
        rows.row(
            {replicas[index]: -rules.utilisation * column.fraction, **dict.fromkeys(flows.get(index, ()), 1.0)}, -np.inf, 0.0
        )
        for index, column in enumerate(columns)
    ]


def _devices(rows: Rows, fleet: Fleet, columns: Sequence[Column], replicas: Sequence[int], asked: Asked) -> None:
    """Where cost counts, whole devices are paid for."""
    total = sum(device.count for device in fleet.devices)
    for device in fleet.devices:
        taken = {replicas[at]: column.fraction for at, column in enumerate(columns) if column.device == device.name}
        if asked.goal is Goal.COST:
            bought = rows.variable(device.count, whole=True, cost=device.price_per_hour or 0.0)
            rows.row({**taken, bought: -1.0}, -np.inf, 0.0)
            continue
        rows.row(taken, -np.inf, device.count)
        for variable, fraction in taken.items():
            rows.cost[variable] = EPSILON * fraction / total


def _spread(rows: Rows, fleet: Fleet, rules: Rules, columns: Sequence[Column], replicas: Sequence[int]) -> None:
    """Every stage has its replicas, and nodes enough to have each on another."""
    visited = {demand.stage for each in fleet.classes for demand in each.demands if demand.items > 0}
    for stage in fleet.stages:
        nodes: dict[int, float] = {}
        for device in fleet.devices:
            hosts = [at for at, column in enumerate(columns) if column.device == device.name and stage in column.stages]
            if hosts:
                spread = rows.variable(device.num_nodes)
                rows.row({spread: 1.0, **{replicas[at]: -1.0 for at in hosts}}, -np.inf, 0.0)
                nodes[spread] = 1.0
        rows.row(nodes, rules.replicas if stage in visited else 1, np.inf)


def _chosen_times(rows: Rows, fleet: Fleet, columns: Sequence[Column], limit: Limit, busy: Mapping[Flow, int]) -> None:
    counts = {device.name: device.count for device in fleet.devices}
    longest: dict[int, float] = {}
    for demand, _ in limit.path:
        key = (limit.of_class, limit.setting, demand.stage)
        taken = {at: columns[at].taken_s[key] for of_class, stage, at in busy if (of_class, stage) == (key[0], key[2])}
        levels = {level: rows.variable(1.0, whole=True) for level in sorted(set(taken.values()))}
        rows.row(dict.fromkeys(levels.values(), 1.0), 1.0, 1.0)
        longest |= {variable: level for level, variable in levels.items()}
        for at, seconds in taken.items():
            open_to = {variable: -float(counts[columns[at].device]) for level, variable in levels.items() if level >= seconds}
            rows.row({busy[limit.of_class, demand.stage, at]: 1.0, **open_to}, -np.inf, 0.0)
    rows.row(longest, -np.inf, limit.bound_s)


def solved(program: Written, asked: Asked, *, time_limit_s: float, gap: float) -> Solution | None:
    """With whole replicas; None where there is no solution, or none was found in time."""
    rows = program.rows
    with quiet():
        result = milp(
            rows.cost,
            integrality=rows.whole,
            bounds=Bounds(rows.lower, rows.upper),
            constraints=_constraints(rows),
            options={"time_limit": time_limit_s, "mip_rel_gap": gap},
        )
    if result.x is None:
        return None
    return _read(program, result.x, _bound(program, asked, result.mip_dual_bound))


def relaxed(program: Written, asked: Asked) -> Solution | None:
    """As if replicas could be divided (or, where they are fixed, exactly). None: there is no solution."""
    rows = program.rows
    matrix, lower, upper = rows.matrix(), *(np.array([row[at] for row in rows.rows]) for at in (1, 2))
    equal = lower == upper
    over, under = ~equal & np.isfinite(upper), ~equal & np.isfinite(lower)
    result = linprog(
        rows.cost,
        A_ub=vstack([matrix[over], -matrix[under]]),
        b_ub=np.concatenate([upper[over], -lower[under]]),
        A_eq=matrix[equal],
        b_eq=lower[equal],
        bounds=list(zip(rows.lower, rows.upper, strict=True)),
        method="highs",
    )
    if result.x is None:
        return None
    prices = np.zeros(len(rows.rows))
    prices[over] = -result.ineqlin.marginals[: int(over.sum())]
    worth = [program.scale * prices[row] * part for row, part in zip(program.capacity, program.parts, strict=True)]
    reduced = [float(result.lower.marginals[at] + result.upper.marginals[at]) for at in program.replicas]
    return replace(_read(program, result.x, _bound(program, asked, result.fun)), worth=worth, reduced=reduced)


def _constraints(rows: Rows) -> LinearConstraint:
    return LinearConstraint(rows.matrix(), [row[1] for row in rows.rows], [row[2] for row in rows.rows])


def _bound(program: Written, asked: Asked, dual: float) -> float:
    return dual if asked.goal is Goal.COST else program.scale * (program.preferences - dual)


def _read(program: Written, values: NDArray[Any], bound: float) -> Solution:
    return Solution(
        rate=float(values[program.rate]) * program.scale,
        replicas=[float(values[at]) for at in program.replicas],
        busy={flow: float(values[at]) for flow, at in program.busy.items() if values[at] > TINY},
        bound=bound,
    )
