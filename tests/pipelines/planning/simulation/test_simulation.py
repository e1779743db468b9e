"""Small fleets whose figures are known by other means."""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.planning.scaling.pool_state import PoolState
from pipelines.planning.simulation.arrivals import every, poisson
from pipelines.planning.simulation.engines.devices import Noise
from pipelines.planning.simulation.fleet import Delay, Fleet, Hosted, Incident, Pool, Stage, Trouble, Ways
from pipelines.planning.simulation.outcome import Outcome
from pipelines.planning.simulation.own import OwnRouter
from pipelines.planning.simulation.result import Result
from pipelines.planning.simulation.simulation import simulate
from pipelines.planning.simulation.workload import Request, Task
from pipelines.routing.admission import Admission
from stages.contract.cost import Speed, StepTimes
from stages.contract.news import StageNews

ENCODER, LLM = "m.encoder", "m.llm"


def one_shot(seconds: float, rows: int = 1, slope: float = 0.0) -> Speed:
    return Speed(StepTimes(((1.0, seconds), (100.0, seconds + 99 * slope))), rows, math.inf, is_one_shot=True)


def encoders(*pools: Pool, **fleet: object) -> Fleet:
    return Fleet((Stage(ENCODER),), pools, **fleet)  # type: ignore[arg-type]


def pool(name: str, speed: Speed, replicas: int = 1, stage: str = ENCODER, **given: object) -> Pool:
    return Pool(name, name, (Hosted(stage, speed),), replicas, **given)  # type: ignore[arg-type]


def images(times: Iterable[float], **given: object) -> list[Request]:
    return [Request(at, (Task(ENCODER),), **given) for at in times]  # type: ignore[arg-type]


def outcomes(result: Result) -> list[Outcome]:
    return [Outcome(outcome) for outcome in result.requests.outcome]


def test_a_request_alone_takes_its_ways_and_its_batch() -> None:
    ways = Ways(hop=Delay(0.01), door=Delay(0.5))
    result = simulate(encoders(pool("one", one_shot(0.2)), ways=ways), images([1.0]), OwnRouter)
    assert result.figures().p50_s == pytest.approx(0.5 + 0.01 + 0.2 + 0.01, abs=1e-6)
    assert result.requests.first[0] == pytest.approx(1.71, abs=1e-6)


def test_one_server_has_the_waits_of_queueing_theory() -> None:
    """M/D/1: Pollaczek and Khinchine."""
    rate, seconds = 5.0, 0.1
    result = simulate(encoders(pool("one", one_shot(seconds))), images(islice(poisson(rate, 1), 4_000)), OwnRouter)
    load = rate * seconds
    assert result.figures().mean_s == pytest.approx(seconds + load * seconds / (2 * (1 - load)), rel=0.05)
    assert result.by_device()["one"].utilisation == pytest.approx(load, rel=0.05)


def test_an_llms_row_reads_its_prompt_in_chunks_and_then_makes_a_token_a_step() -> None:
    speed = Speed(StepTimes(((1.0, 0.01), (101.0, 0.11))), 8, math.inf)
    fleet = Fleet((Stage(LLM, is_iterative=True, chunk=50),), (pool("one", speed, stage=LLM),))
    result = simulate(fleet, [Request(0.0, (Task(LLM, prompt=120, steps=5),))], OwnRouter)
    assert result.requests.first[0] == pytest.approx(0.059 + 0.059 + 0.029, abs=1e-6)  # 50, 50 and 20 tokens
    assert result.requests.end[0] == pytest.approx(0.147 + 4 * 0.01, abs=1e-6)


def test_a_result_that_many_need_at_once_is_made_once() -> None:
    llm = Speed(StepTimes(((1.0, 0.01),)), 64, math.inf)
    fleet = Fleet(
        (Stage(ENCODER), Stage(LLM, is_iterative=True)),
        (pool("encoders", one_shot(1.0), 3), pool("llms", llm, 4, stage=LLM)),
        shared_names=10,
    )
    needs = (Task(ENCODER, name=7),)
    result = simulate(fleet, [Request(at, (Task(LLM, needs=needs),)) for at in islice(every(0.2), 20)], OwnRouter)
    assert outcomes(result) == [Outcome.DONE] * 20
    assert result.devices["encoders"].busy_s == pytest.approx(1.0, abs=1e-6)


def test_both_of_two_unlike_pools_are_busy_under_saturation() -> None:
    """And the faster does its part more."""
    fleet = encoders(pool("fast", one_shot(0.1, 4, 0.05), 2), pool("slow", one_shot(0.3, 4, 0.15), 2), num_callers=3)
    rate = 0.97 * sum(one.replicas * one.stages[0].speed.rate(Task(ENCODER).work(1)) for one in fleet.pools)
    result = simulate(fleet, images(islice(poisson(rate, 3), 3000)), OwnRouter, window=(10.0, 70.0))
    fast, slow = result.devices["fast"], result.devices["slow"]
    assert min(fast.full_part, slow.full_part) > 0.85
    num_fast = result.requests.pool.count(result.requests.pools.index("fast"))
    assert num_fast / len(result.requests) == pytest.approx(0.75, abs=0.05)


def test_devices_that_always_have_full_batches_do_all_that_they_could() -> None:
    result = simulate(encoders(pool("one", one_shot(0.1, 4, 0.1))), images([0.0] * 400), OwnRouter, window=(2.0, 20.0))
    assert result.devices["one"].full_part == pytest.approx(1.0, abs=1e-3)


def test_stages_that_share_a_device_take_turns() -> None:
    llm = Speed(StepTimes(((1.0, 0.1),)), 8, math.inf)
    both = Pool("both", "gpu", (Hosted(ENCODER, one_shot(0.1)), Hosted(LLM, llm)), 1)
    fleet = Fleet((Stage(ENCODER), Stage(LLM, is_iterative=True)), (both,))
    load = [Request(0.0, (Task(LLM, steps=10),)), *images([0.0] * 10)]
    result = simulate(fleet, load, OwnRouter)
    assert result.ended_s == pytest.approx(2.0, abs=1e-6)
    assert result.devices["both"].utilisation == pytest.approx(1.0, abs=1e-6)


def test_what_is_late_is_late_wherever_it_is() -> None:
    result = simulate(encoders(pool("one", one_shot(1.0))), images([0.0, 0.0, 0.0], deadline_s=1.5), OwnRouter)
    assert sorted(outcomes(result)) == [Outcome.DONE, Outcome.LATE, Outcome.LATE]


def test_what_could_not_end_in_time_is_refused_at_once() -> None:
    """Once the replica has told how fast it is."""
    router = partial(OwnRouter, admission=Admission())
    result = simulate(encoders(pool("one", one_shot(1.0))), images([5.0] * 10, deadline_s=4.5), router)
    assert Outcome.LATE not in outcomes(result)
    assert outcomes(result).count(Outcome.REFUSED) >= 5
    assert outcomes(result).count(Outcome.DONE) >= 2


def test_calls_wait_for_a_place_where_replicas_hold_so_many_only() -> None:
    fleet = encoders(pool("one", one_shot(1.0, 8), max_ongoing=2))
    result = simulate(fleet, images([0.0] * 6), OwnRouter)
    assert outcomes(result) == [Outcome.DONE] * 6
    assert result.ended_s > 3.0  # never more than two in a batch


def test_what_a_dead_replica_had_is_done_by_another() -> None:
    incident = Incident(0.55, "some", 0, Trouble.DIES)
    fleet = encoders(pool("some", one_shot(0.5, 4), 2, start_up_s=3.0), incidents=(incident,))
    result = simulate(fleet, images(islice(every(0.1), 60)), OwnRouter)
    assert outcomes(result) == [Outcome.DONE] * 60
    sizes = [(change.at_s, change.running) for change in result.changes]
    assert sizes == [(0.0, 2), (pytest.approx(0.55), 1), (pytest.approx(3.55), 2)]


def test_a_slow_replica_is_slow_for_as_long_as_it_is_said_to_be() -> None:
    incident = Incident(1.05, "one", 0, Trouble.SLOW, factor=10.0, for_s=4.0)
    llm = Speed(StepTimes(((1.0, 0.1),)), 8, math.inf)
    fleet = Fleet((Stage(LLM, is_iterative=True),), (pool("one", llm, stage=LLM),), incidents=(incident,))
    result = simulate(fleet, [Request(0.0, (Task(LLM, steps=100),))], OwnRouter)
    assert result.ended_s == pytest.approx(1.1 + 4 * 1.0 + 85 * 0.1, abs=1e-6)  # the fourth slow step began before it was over


class Steps:
    """A scaler with a plan."""

    period_s = 1.0

    def __init__(self, plan: Mapping[float, int]) -> None:
        self.plan, self.seen = plan, list[PoolState]()

    def targets(self, pools: Sequence[PoolState], ongoing: Mapping[str, float], now: float) -> Mapping[str, int]:
        self.seen += pools
        return {one.pool: self.plan[round(now)] for one in pools if round(now) in self.plan}


def test_replicas_start_after_their_time_and_end_once_they_are_drained() -> None:
    scaler = Steps({2: 3, 10: 1})
    fleet = encoders(pool("some", one_shot(0.5), 1, start_up_s=4.0))
    result = simulate(fleet, images(islice(every(0.3), 60)), OwnRouter, scaler=scaler)
    assert outcomes(result) == [Outcome.DONE] * 60
    assert [(round(change.at_s), change.running) for change in result.changes if change.at_s > 2] == [
        (6, 2),
        (6, 3),
        (10, 3),
        (10, 1),
    ]
    assert max(one.starting for one in scaler.seen) == 2
    assert scaler.seen[0].stages[0].arriving == pytest.approx(4.0)
    assert result.devices["some"].alive_s < result.ended_s + 2 * 6


def test_the_same_seed_gives_the_same_run() -> None:
    fleet = encoders(pool("a", one_shot(0.1, 4), 3), pool("b", one_shot(0.2, 4), 3), num_callers=2, noise=Noise(0.2))
    runs = [simulate(fleet, images(islice(poisson(30, 1), 500)), OwnRouter, seed=seed) for seed in (1, 1, 2)]
    assert runs[0].requests == runs[1].requests
    assert runs[0].requests != runs[2].requests


@settings(max_examples=6, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 1000))
def test_every_request_ends_once_whatever_happens(source: random.Random, seed: int) -> None:
    incidents = tuple(
        Incident(source.uniform(0, 6), source.choice("ab"), source.randrange(2), source.choice(list(Trouble)), 5.0, 2.0)
        for _ in range(3)
    )
    llm = Speed(StepTimes(((1.0, 0.02), (64.0, 0.2))), 4, math.inf)
    fleet = Fleet(
        (Stage(ENCODER, remembers=5), Stage(LLM, is_iterative=True, remembers=20)),
        (pool("a", one_shot(0.2, 4), 2, max_ongoing=6), pool("b", llm, 2, stage=LLM, max_ongoing=9)),
        num_callers=2,
        noise=Noise(0.1),
        incidents=incidents,
        shared_names=source.choice([0, 5]),
        ways=Ways(hop=Delay(0.003, 0.5)),
    )

    def request(at: float) -> Request:
        needs = tuple(Task(ENCODER, name=source.randrange(1, 9)) for _ in range(source.randrange(3)))
        pages = tuple(range(source.randrange(4)))
        task = Task(LLM, prompt=40, steps=source.randrange(1, 30), pages=pages, paged=8 * len(pages), needs=needs)
        return Request(at, (task,), deadline_s=source.choice([2.0, math.inf]), priority=source.choice([0, 0, 1]))

    load = [request(at) for at in islice(poisson(12, seed), 80)]
    results = [simulate(fleet, load, OwnRouter, seed=seed, folds=folds) for folds in (True, False)]
    assert sorted(results[0].requests.at) == [one.at_s for one in load]
    assert results[0].requests == results[1].requests


class Blind(OwnRouter):
    """Hears nothing of who shares a device."""

    def heard(self, pool: str, news: StageNews, now: float) -> None:
        super().heard(pool, replace(news, is_shared=False), now)


def test_who_counts_what_else_a_device_has_to_do_sends_less_there_and_all_are_done_sooner() -> None:
    """Two replicas paint all the time, beside what two others do alone."""
    painter = Speed(StepTimes(((1.0, 0.1),)), 8, math.inf)
    both = Pool("both", "gpu", (Hosted(ENCODER, one_shot(0.1)), Hosted(LLM, painter)), 2)
    fleet = Fleet((Stage(ENCODER), Stage(LLM, is_iterative=True)), (both, pool("own", one_shot(0.1), 2)), num_callers=2)
    painted = [Request(at, (Task(LLM, steps=20),), "painting") for at in islice(every(1.0), 60)]
    asked = images(islice(poisson(14.0, 4), 840), kind="image")
    load = sorted([*painted, *asked], key=lambda request: request.at_s)
    seeing, blind = (simulate(fleet, load, router, window=(5.0, 60.0)) for router in (OwnRouter, Blind))
    assert seeing.figures("image").mean_s < 0.5 * blind.figures("image").mean_s
    assert seeing.figures("painting").mean_s <= blind.figures("painting").mean_s
