"""`python -m benchmarks.simulation`: how long the simulator takes for a thousand devices of four types and a million requests (up to
20 minutes on one core; `--quick`: 5,000 requests).

Half of them are chats about images, which come again as popular ones do; half are paintings. Everything decides that decides in a live
system: the schedulers of 992 replicas, four HTTP processes' tables, and the replicas' own for what they need of each other; but that
simulated rows don't wait for each other's beginnings. At 0.85 of what all devices could do the slowest type is never the soonest.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice

from benchmarks.fleet.cases import without_collecting
from benchmarks.reporting.command import results_folder, start, tell
from benchmarks.reporting.report import Goal, Report
from pipelines.planning.simulation.arrivals import gamma
from pipelines.planning.simulation.engines.devices import Noise
from pipelines.planning.simulation.fleet import Delay, Fleet, Hosted, Pool, Stage, Ways
from pipelines.planning.simulation.own import OwnRouter
from pipelines.planning.simulation.simulation import simulate
from pipelines.planning.simulation.traffic import Kind, chats, exponential, fixed, paintings, traffic, zipf
from pipelines.planning.simulation.workload import Request
from stages.contract.cost import Speed, StepTimes
from stages.contract.work import Work

NUM_REQUESTS, QUICK = 1_000_000, 5_000
LOAD = 0.85
SLOWNESS = {"H200": 1.0, "H100": 1.3, "A100": 2.5, "L4": 6.0}
ENCODER, LLM, TEXT, DENOISER, VAE = (
    "vlm.vision_encoder",
    "vlm.llm",
    "paint.text_encoder",
    "paint.denoiser",
    "paint.vae_decoder",
)
LATENT, STEPS, PROMPT, ANSWER = 8192.0, 25, 300, 150
MAX_S = 1200.0


def main() -> None:
    quick = start(__doc__)
    num = QUICK if quick else NUM_REQUESTS
    fleet = _fleet()
    num_devices = sum(pool.replicas for pool in fleet.pools)
    rate = LOAD * _bottleneck(fleet)
    tell(f"{num} requests, {rate:.0f} a second, on {num_devices} devices")
    began, cpu = time.perf_counter(), time.process_time()
    load = _counted(traffic(islice(gamma(rate, 1.5, seed=1), num), _kinds(), seed=2), num)
    result = without_collecting(partial(simulate, fleet, load, OwnRouter, seed=3))
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    figures = result.figures()
    report = Report("simulation", {"devices": num_devices, "types": len(SLOWNESS), "requests": num, "rate": round(rate, 1)})
    report.add(
        side="simulator",
        cpu_s=round(cpu_s, 1),
        wall_s=round(wall_s, 1),
        us_a_request=round(1e6 * cpu_s / num),
        simulated_s=round(result.ended_s, 1),
        done=figures.num_done,
        p50_s=round(figures.p50_s, 3),
        p99_s=round(figures.p99_s, 3),
    )
    for device, done in result.by_device().items():
        report.add(side=device, utilisation=round(done.utilisation, 3), full_batch_part=round(done.full_part, 3))
    report.goals.append(Goal("seconds of one core", cpu_s, MAX_S * num / NUM_REQUESTS, at_most=True))
    report.publish(results_folder(quick=quick))


def _counted(requests: Iterable[Request], num: int) -> Iterator[Request]:
    """Says how far it has come, twenty times."""
    began = time.process_time()
    for count, request in enumerate(requests, 1):
        yield request
        if count % (num // 20) == 0:
            tell(f"{count} of {num} requests have come, {time.process_time() - began:.0f} s of CPU")


def _fleet() -> Fleet:
    """248 devices of each type, so that language models and denoisers could do as many requests a second."""
    pools = [pool for device, slowness in SLOWNESS.items() for pool in _pools(device, slowness)]
    stages = (
        Stage(ENCODER, remembers=200),
        Stage(LLM, is_iterative=True, remembers=300),
        Stage(TEXT),
        Stage(DENOISER, is_iterative=True),
        Stage(VAE),
    )
    return Fleet(
        stages,
        tuple(pools),
        num_callers=4,
        num_inner_callers=8,
        shared_names=100_000,
        ways=Ways(hop=Delay(0.0015, 0.3)),
        noise=Noise(0.05),
    )


def _pools(device: str, slowness: float) -> list[Pool]:
    def pool(stage: str, replicas: int, base_s: float, each_s: float, rows: int, of: float = 1.0) -> Pool:
        """A step of `rows` rows of `of` takes `base_s` and `each_s` for each."""
        points = tuple((of * count, slowness * (base_s + each_s * count)) for count in (1, rows))
        speed = Speed(StepTimes(points), rows, rows * of if of > 1 else float("inf"), is_one_shot=stage not in (LLM, DENOISER))
        return Pool(f"{stage} on {device}", device, (Hosted(stage, speed),), replicas)

    return [
        pool(ENCODER, 5, 0.02, 0.004, 8),
        pool(LLM, 75, 0.01, 0.0004, 16),
        pool(DENOISER, 143, 0.01, 0.018, 4, LATENT),
        pool(TEXT, 2, 0.01, 0.002, 16),
        pool(VAE, 23, 0.05, 0.03, 4, LATENT),
    ]


def _bottleneck(fleet: Fleet) -> float:
    """Requests a second, half of each kind, that the stage with the least room allows."""
    one = {
        ENCODER: Work(1.0, 1.0),
        LLM: Work(PROMPT + ANSWER - 1, ANSWER),
        TEXT: Work(1.0, 1.0),
        DENOISER: Work(LATENT * STEPS, STEPS),
        VAE: Work(LATENT, 1.0),
    }
    rates = dict.fromkeys(one, 0.0)
    for pool in fleet.pools:
        for hosted in pool.stages:
            rates[hosted.stage] += pool.replicas * hosted.speed.rate(one[hosted.stage])
    return 2 * min(rates.values())


def _kinds() -> list[Kind]:
    image = zipf(100_000, 0.9)
    chat = chats(LLM, prompt=fixed(PROMPT), answer=exponential(ANSWER), expected_answer=ANSWER, encoder=ENCODER, image=image)
    paint = paintings(DENOISER, positions=fixed(LATENT), steps=fixed(STEPS), text_encoder=TEXT, tokens=1.0, decoder=VAE)
    return [Kind("chat", 1, chat, within_s=30.0, deadline_s=60.0), Kind("paint", 1, paint, within_s=60.0, deadline_s=120.0)]


if __name__ == "__main__":
    main()
