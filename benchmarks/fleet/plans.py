"""The planner's plan for the benchmark's fleet, and what people do without one: an even split, a type of device for each stage, and a
monolith that holds every model in every replica. All on the same devices, as pools for the simulator. Pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from benchmarks.fleet.devices import BY_NAME, FLEET, STAGES, DeviceType
from benchmarks.fleet.workloads import CHAT, CHAT_WITHIN_S, FIRST_WITHIN_S, MIXED, PAINTING, PAINTING_WITHIN_S, Taste, requests
from pipelines.planning.fleet import Demand, Device, Fleet, Measured, RequestClass, Rules, Slo
from pipelines.planning.plan import Plan
from pipelines.planning.simulation.fleet import Hosted, Pool, Stage
from pipelines.planning.simulation.workload import Task
from pipelines.planning.solving.columns import sized
from stages.contract.work import NO_WORK, Work

OURS, EVEN, BY_TYPE, MONOLITH = "planned", "even split", "a type for each stage", "monolith"
CHUNK = 512
NUM_SAMPLED = 4000
SLOS = {CHAT: Slo(first_token_s=FIRST_WITHIN_S, total_s=CHAT_WITHIN_S), PAINTING: Slo(total_s=PAINTING_WITHIN_S)}


def stages() -> tuple[Stage, ...]:
    """As the simulator knows them."""
    return tuple(
        Stage(
            cost.name,
            cost.is_iterative,
            chunk=CHUNK,
            remembers=200 if cost.name in ("chat.llm", "chat.vision_encoder") else 0,
        )
        for cost in STAGES
    )


def planned_for(taste: Taste = MIXED) -> Fleet:
    """What the planner is given: the mean of what is asked."""
    return Fleet(
        stages=tuple(cost.name for cost in STAGES),
        devices=tuple(Device(each.name, each.count, each.memory_bytes, price_per_hour=each.price_per_hour) for each in FLEET),
        measured={
            (cost.name, each.name): Measured(cost.speed(each), cost.weights_bytes, cost.row_bytes)
            for cost in STAGES
            for each in FLEET
        },
        classes=tuple(_classes(taste)),
    )


def _classes(taste: Taste) -> Iterator[RequestClass]:
    sampled = list(requests(itertools.repeat(0.0, NUM_SAMPLED), taste))
    for kind, slo in SLOS.items():
        own = [request for request in sampled if request.kind == kind]
        tasks: dict[str, list[Task]] = {}
        for task in itertools.chain.from_iterable(_visits(call) for request in own for call in request.calls):
            tasks.setdefault(task.stage, []).append(task)
        demands = tuple(_demand(stage, found, len(own)) for stage, found in tasks.items())
        yield RequestClass(kind, len(own) / len(sampled), demands, slo)


def _visits(task: Task) -> Iterator[Task]:
    for needed in task.needs:
        yield from _visits(needed)
    yield task


def _demand(stage: str, tasks: Sequence[Task], num_requests: int) -> Demand:
    mean = sum((task.work(CHUNK) for task in tasks), NO_WORK) * (1 / len(tasks))
    prompt = sum(task.prompt for task in tasks) / len(tasks)
    first = Work(prompt, max(1.0, prompt / CHUNK)) if prompt else None
    return Demand(stage, mean, len(tasks) / num_requests, first)


def pools_of(plan: Plan) -> tuple[Pool, ...]:
    return tuple(
        Pool(
            pool.name,
            pool.device,
            tuple(Hosted(stage.stage, stage.speed) for stage in pool.stages),
            pool.replicas,
            devices=pool.fraction,
        )
        for pool in plan.pools
    )


def without_a_plan(side: str) -> tuple[Pool, ...]:
    return {EVEN: _even, BY_TYPE: _by_type, MONOLITH: _monolith}[side]()


def _even() -> tuple[Pool, ...]:
    """Every type's devices are dealt to the stages in turn, each type's deal beginning where the last one ended."""
    turn = itertools.cycle(cost.name for cost in STAGES)
    dealt: dict[tuple[str, str], int] = {}
    for device in FLEET:
        for _ in range(device.count):
            key = next(turn), device.name
            dealt[key] = dealt.get(key, 0) + 1
    return tuple(_whole(stage, device, count) for (stage, device), count in dealt.items())


def _by_type() -> tuple[Pool, ...]:
    """The large models where they fit by common sense: paintings on the fastest, chats on the next, all that is small on the smallest."""
    types = {device.name: device for device in FLEET}
    small = [cost.name for cost in STAGES if cost.name not in ("paint.denoiser", "chat.llm")]
    share, rest = divmod(types["L4"].count, len(small))
    return (
        _whole("paint.denoiser", "H100", types["H100"].count),
        _whole("chat.llm", "A100", types["A100"].count),
        *(_whole(stage, "L4", share + (place < rest)) for place, stage in enumerate(small)),
    )


def _whole(stage: str, device: str, count: int) -> Pool:
    kind = next(each for each in FLEET if each.name == device)
    return Pool(f"{stage.replace('.', '-')}-{device.lower()}", device, (Hosted(stage, BY_NAME[stage].speed(kind)),), count)


def _monolith() -> tuple[Pool, ...]:
    """With the largest batches that fit beside all the weights."""
    fleet = planned_for()
    return tuple(_all_in_one(device, kind, fleet) for device, kind in zip(fleet.devices, FLEET, strict=True))


def _all_in_one(device: Device, kind: DeviceType, fleet: Fleet) -> Pool:
    column = next(iter(sized(fleet.stages, device, 1.0, fleet, Rules())))
    hosted = tuple(Hosted(each.stage, each.speed) for each in column.hosted)
    return Pool(f"all-{kind.name.lower()}", kind.name, hosted, kind.count)
