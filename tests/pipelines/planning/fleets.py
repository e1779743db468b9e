"""Fleets to plan for: a few types of device, two models, and a search over all plans of a small fleet that knows no solver's tricks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from scipy.optimize import linprog

from pipelines.planning.fleet import GIB, Demand, Device, Fleet, Measured, RequestClass, Rules, Slo
from pipelines.planning.solving.columns import Column
from stages.contract.cost import Speed, StepTimes
from stages.contract.work import Work

SEE, LLM = "see.vision_encoder", "see.llm"
TEXT, PAINT, DECODE = "paint.text_encoder", "paint.denoiser", "paint.vae_decoder"

IMAGE, ANSWER, PROMPT = Work(576), Work(900, 203), Work(700, 3)
SENTENCE, PAINTING, PIXELS = Work(77), Work(50 * 2 * 4096, 50), Work(262_144)

L4 = Device("l4", 4, 24 * GIB, per_node=2, cpus_per_node=16, price_per_hour=1.0)
A100 = Device("a100", 2, 80 * GIB, per_node=1, price_per_hour=3.0)
H100 = Device("h100", 1, 80 * GIB, price_per_hour=7.0)

CHAT = RequestClass("chat", 3.0, (Demand(SEE, IMAGE, 0.6), Demand(LLM, ANSWER, 1.0, PROMPT)))
PAINTED = RequestClass("paint", 1.0, (Demand(TEXT, SENTENCE), Demand(PAINT, PAINTING), Demand(DECODE, PIXELS)))


def measured(
    fixed_s: float, each_s: float, rows: int, *, gib: float = 1.0, one_shot: bool = True, row_gib: float = 0.1
) -> Measured:
    """Steps that take `fixed_s`, and `each_s` for each unit in them."""
    times = StepTimes(((1.0, fixed_s + each_s), (1e6, fixed_s + each_s * 1e6)))
    return Measured(Speed(times, rows, float("inf"), is_one_shot=one_shot), gib * GIB, row_gib * GIB)


ON_L4 = {
    SEE: measured(0.01, 1e-4, 16),
    LLM: measured(0.02, 2e-3, 16, gib=14, one_shot=False),
    TEXT: measured(0.01, 1e-4, 32),
    PAINT: measured(0.05, 3e-5, 8, gib=7, one_shot=False),
    DECODE: measured(0.02, 1e-7, 8),
}
GAINS = {
    "l4": dict.fromkeys(ON_L4, 1.0),
    "a100": dict.fromkeys(ON_L4, 2.5) | {PAINT: 3.0},
    "h100": dict.fromkeys(ON_L4, 3.0) | {PAINT: 6.0},
}


def fleet(
    devices: Sequence[Device] = (L4, A100, H100),
    classes: Sequence[RequestClass] = (CHAT, PAINTED),
    stages: Sequence[str] = (SEE, LLM, TEXT, PAINT, DECODE),
    on_l4: Mapping[str, Measured] = ON_L4,
) -> Fleet:
    found = {
        (stage, device.name): replace(
            on_l4[stage], speed=on_l4[stage].speed.corrected(1 / GAINS.get(device.name, GAINS["l4"])[stage])
        )
        for stage in stages
        for device in devices
    }
    return Fleet(tuple(stages), tuple(devices), found, tuple(classes))


def with_slo(each: RequestClass, **bounds: float) -> RequestClass:
    return replace(each, slo=Slo(**bounds))


def best_by_trying_all(fleet: Fleet, rules: Rules, columns: Sequence[Column]) -> float:
    """The highest rate of all ways to fill the devices, each shared out by a linear program of its own. The times of several stages are not
    looked at: for fleets whose bounds are each on one stage."""
    filled = [
        list(_filled([at for at, column in enumerate(columns) if column.device == device.name], columns, float(device.count)))
        for device in fleet.devices
    ]
    found = 0.0
    for chosen in product(*filled):
        counts = [sum(each.count(at) for each in chosen) for at in range(len(columns))]
        if _fits(fleet, rules, columns, counts):
            found = max(found, _rate(fleet, rules, columns, counts))
    return found


def _filled(indexes: Sequence[int], columns: Sequence[Column], room: float) -> Iterator[tuple[int, ...]]:
    """All ways to take columns until none of the rest fits: with fewer no rate is higher."""
    if not indexes:
        yield ()
        return
    first, rest = indexes[0], indexes[1:]
    most = int(room / columns[first].fraction)
    for count in range(most + 1) if rest else [most]:
        for others in _filled(rest, columns, room - count * columns[first].fraction):
            yield (first,) * count + others


def _fits(fleet: Fleet, rules: Rules, columns: Sequence[Column], counts: Sequence[int]) -> bool:
    for device in fleet.devices:
        if (
            sum(column.fraction * count for column, count in zip(columns, counts, strict=True) if column.device == device.name)
            > device.count
        ):
            return False
    for stage in fleet.stages:
        nodes = 0
        for device in fleet.devices:
            replicas = sum(
                count
                for column, count in zip(columns, counts, strict=True)
                if column.device == device.name and stage in column.stages
            )
            nodes += min(replicas, -(-device.count // device.per_node))
        if nodes < rules.replicas:
            return False
    return True


def _rate(fleet: Fleet, rules: Rules, columns: Sequence[Column], counts: Sequence[int]) -> float:
    """Over items a second of each class and stage in each column, and the rate."""
    total = sum(each.rate for each in fleet.classes)
    flows = [
        (each, demand, at)
        for each in fleet.classes
        for demand in each.demands
        for at, column in enumerate(columns)
        if (each.name, demand.stage) in column.serves and counts[at]
    ]
    equal = np.array(
        [
            [float(flow[0] is each and flow[1] is demand) for flow in flows] + [-demand.items * each.rate / total]
            for each in fleet.classes
            for demand in each.demands
        ]
    )
    under = np.array(
        [
            [1 / columns[flow[2]].rate(flow[1].stage, flow[1].work) if flow[2] == at else 0.0 for flow in flows] + [0.0]
            for at in range(len(columns))
        ]
    )
    room = [rules.utilisation * column.fraction * count for column, count in zip(columns, counts, strict=True)]
    result = linprog([0.0] * len(flows) + [-1.0], A_ub=under, b_ub=room, A_eq=equal, b_eq=np.zeros(len(equal)))
    return float(-result.fun) if result.status == 0 else 0.0
