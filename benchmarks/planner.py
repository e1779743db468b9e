"""How long planning takes, and how good the plan is beside what could be at best.

    python -m benchmarks.planner

Random fleets (seeded) of 10 stages of 4 models on 8 types of device, 10 to 10,000 devices in all, with bounds on what requests take. For
each the seconds, the rate, the solver's bound and the gap to it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from benchmarks.reporting.command import results_folder, start, tell
from benchmarks.reporting.report import Goal, Report
from pipelines.planning.fleet import GIB, Demand, Device, Fleet, Measured, RequestClass, Rules, Slo
from pipelines.planning.planner import plan
from pipelines.planning.solving.search import Patience
from stages.contract.cost import Speed, StepTimes
from stages.contract.work import Work

STAGES: dict[str, tuple[float, float, int, float]] = {
    # seconds of a step, and for each unit in it, on the slowest device; rows; GiB of weights
    "see.vision_encoder": (0.01, 2e-5, 16, 1),
    "see.llm": (0.03, 1e-3, 32, 14),
    "read.vision_encoder": (0.01, 4e-5, 16, 2),
    "read.llm": (0.05, 2e-3, 32, 18),
    "paint.text_encoder": (0.01, 5e-5, 32, 1),
    "paint.denoiser": (0.04, 2e-5, 8, 6),
    "paint.vae_decoder": (0.02, 2e-7, 8, 0.5),
    "paint.vae_encoder": (0.02, 1e-7, 8, 0.5),
    "draw.denoiser": (0.02, 1e-5, 8, 3),
    "draw.vae_decoder": (0.02, 1e-7, 8, 0.5),
}
ITERATIVE = ("llm", "denoiser")
GAINS = (1.0, 1.4, 1.9, 2.5, 3.2, 4.0, 5.5, 8.0)
MEMORY_GIB = (24, 24, 24, 40, 48, 80, 80, 141)
SIZES = (10, 50, 500, 10_000)
BY_S = 10.0  # at the largest size
LIMIT_S = 20.0
SEEDS = 2


def fleet(num_devices: int, seed: int) -> Fleet:
    """Types of device of unlike speed, of which each stage makes more or less use."""
    chance = random.Random(seed)
    parts = [chance.random() / gain for gain in GAINS]
    counts = [max(1, round(num_devices * part / sum(parts))) for part in parts]
    devices = tuple(
        Device(f"type-{at}", count, memory * GIB, per_node=4, price_per_hour=gain)
        for at, (count, memory, gain) in enumerate(zip(counts, MEMORY_GIB, GAINS, strict=True))
    )
    measured = {
        (stage, device.name): _measured(stage, gain * chance.uniform(0.6, 1.6))
        for stage in STAGES
        for device, gain in zip(devices, GAINS, strict=True)
    }
    return Fleet(tuple(STAGES), devices, measured, classes(chance))


def _measured(stage: str, gain: float) -> Measured:
    fixed_s, each_s, rows, gib = STAGES[stage]
    times = StepTimes(tuple((amount, (fixed_s + each_s * amount) / gain) for amount in (1.0, 1e7)))
    is_one_shot = stage.partition(".")[2] not in ITERATIVE
    return Measured(Speed(times, rows, float("inf"), is_one_shot=is_one_shot), gib * GIB, 0.2 * GIB)


def classes(chance: random.Random) -> tuple[RequestClass, ...]:
    def chat(model: str, prompt: int, answer: int) -> tuple[Demand, ...]:
        first = Work(prompt, prompt / 256)
        answered = Demand(f"{model}.llm", first + Work(answer, answer), 1.0, first)
        return (Demand(f"{model}.vision_encoder", Work(576), chance.uniform(0.2, 1)), answered)

    painted = (
        Demand("paint.text_encoder", Work(77)),
        Demand("paint.denoiser", Work(30 * 8192, 30)),
        Demand("paint.vae_decoder", Work(2**18)),
    )
    edited = (Demand("paint.vae_encoder", Work(2**18)), *painted)
    drawn = (Demand("draw.denoiser", Work(8 * 8192, 8)), Demand("draw.vae_decoder", Work(2**18)))
    return (
        RequestClass("chat", chance.uniform(1, 4), chat("see", 500, 200), Slo(first_token_s=2, token_s=0.15)),
        RequestClass("read", chance.uniform(0.5, 2), chat("read", 3000, 300), Slo(first_token_s=6, token_s=0.3)),
        RequestClass("paint", chance.uniform(0.2, 1), painted, Slo(total_s=60)),
        RequestClass("edit", chance.uniform(0.1, 0.5), edited, Slo(total_s=60)),
        RequestClass("draw", chance.uniform(0.5, 2), drawn, Slo(total_s=15)),
    )


def measure(sizes: Sequence[int], seeds: int, limit_s: float, report: Report) -> None:
    for size in sizes:
        for seed in range(seeds):
            tell(f"{size} devices, seed {seed}")
            needed = fleet(size, seed)
            began, began_cpu = time.perf_counter(), time.process_time()
            found = plan(needed, Rules(), patience=Patience(limit_s))
            report.add(
                devices=sum(device.count for device in needed.devices),
                seed=seed,
                seconds=time.perf_counter() - began,
                cpu_s=time.process_time() - began_cpu,
                rate=found.rate,
                bound=found.bound,
                gap=found.gap,
                pools=len(found.pools),
                busy=sum(use.utilisation * use.count for use in found.devices) / sum(use.count for use in found.devices),
            )


def main() -> None:
    quick = start(__doc__)
    report = Report(
        "planner", {"stages": len(STAGES), "types": len(GAINS), "limit_s": LIMIT_S, "utilisation": Rules().utilisation}
    )
    measure(SIZES[:1] if quick else SIZES, 1 if quick else SEEDS, 2.0 if quick else LIMIT_S, report)
    rows = [row for row in report.rows if row["devices"] is not None and float(row["devices"]) > SIZES[-1] / 2]
    if rows:
        slowest = max(float(row["seconds"] or 0) for row in rows)
        report.goals.append(Goal("seconds at 10,000 devices", slowest, BY_S, at_most=True))
    report.publish(results_folder(quick=quick))


if __name__ == "__main__":
    main()
