"""One decision at a time: whatever the state, bounds and budget hold, and the same state gives the same numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import pytest

from pipelines.planning.scaling.pool_state import Budget, Feed, PoolState, Scaling, StageLoad
from pipelines.planning.scaling.targets import Memory, targets
from stages.contract.cost import Speed, StepTimes
from stages.contract.work import NO_WORK, Work

RULES = Scaling()
ITEM = Work(8.0, 4.0)


def speed(step_s: float, rows: int = 4) -> Speed:
    return Speed(StepTimes(((1.0, step_s), (100.0, 2 * step_s))), rows, 1000.0)


def load(draw: Random, stage: str) -> StageLoad:
    rate, num_items = draw.choice([0.0, draw.uniform(0, 200)]), draw.choice([0, draw.randint(0, 500)])
    return StageLoad(
        stage,
        draw.choice([None, speed(draw.uniform(0.001, 10), draw.randint(1, 32))]),
        arriving=rate,
        work=draw.choice([ITEM * rate, NO_WORK]),
        leaving=draw.uniform(0, 200),
        backlog=ITEM * num_items,
        num_items=num_items,
        after=(Feed("m.0", draw.uniform(0.1, 1)),) if stage != "m.0" and draw.random() < 0.5 else (),
    )


def pool(draw: Random, name: str) -> PoolState:
    least = draw.randint(0, 3)
    return PoolState(
        name,
        tuple(load(draw, stage) for stage in draw.sample(["m.0", "m.1", "n.0"], draw.randint(1, 2))),
        device=draw.choice(["L4", "H100", "cpu"]),
        devices=draw.choice([0.25, 0.5, 1.0, 2.0]),
        running=draw.randint(0, 6),
        starting=draw.randint(0, 3),
        stopping=draw.randint(0, 3),
        min_replicas=least,
        max_replicas=least + draw.randint(1, 20),
        price_per_hour=draw.choice([None, 0.0, draw.uniform(0, 10)]),
        failing=draw.choice([0.0, draw.uniform(0, 0.9)]),
        items_per_replica=draw.uniform(0.5, 32),
        weight=draw.uniform(0.1, 5),
    )


def fleet(draw: Random) -> Sequence[PoolState]:
    return [pool(draw, f"p{at}") for at in range(draw.randint(1, 5))]


def some_budget(draw: Random) -> Budget:
    types = draw.sample(["L4", "H100"], draw.randint(0, 2))
    devices = {device: draw.choice([0.0, draw.uniform(0, 16)]) for device in types}
    return Budget(devices, draw.choice([None, draw.uniform(0, 60)]))


def taken(pools: Sequence[PoolState], counts: Mapping[str, int], device: str) -> float:
    return sum(pool.devices * counts[pool.pool] for pool in pools if pool.device == device)


@pytest.mark.parametrize("seed", range(300))
def test_bounds_and_budget_hold_whatever_is_seen(seed: int) -> None:
    draw = Random(seed)
    budget, memory = some_budget(draw), Memory()
    for step in range(4):
        pools, before = fleet(draw), memory
        wanted, memory = targets(pools, budget, RULES, memory, 2.0 * step)
        again, _ = targets(pools, budget, RULES, before, 2.0 * step)
        assert wanted == again
        assert set(wanted) == {pool.pool for pool in pools}
        assert all(0 <= wanted[pool.pool] <= pool.max_replicas for pool in pools)
        for device, limit in budget.devices.items():
            assert taken(pools, wanted, device) <= limit + 1e-6
        if budget.price_per_hour is not None:
            assert sum((pool.price_per_hour or 0) * wanted[pool.pool] for pool in pools) <= budget.price_per_hour + 1e-6


@pytest.mark.parametrize("seed", range(50))
def test_without_a_budget_every_pool_has_at_least_its_minimum(seed: int) -> None:
    pools = fleet(Random(seed))
    wanted, _ = targets(pools, Budget(), RULES, Memory(), 0.0)
    assert all(pool.min_replicas <= wanted[pool.pool] for pool in pools)


@pytest.mark.parametrize("seed", range(200))
def test_nobody_starts_in_the_place_of_who_is_still_there(seed: int) -> None:
    draw = Random(seed)
    pools, limit = fleet(draw), draw.uniform(0, 16)
    wanted, _ = targets(pools, Budget({"L4": limit}), RULES, Memory(), 0.0)
    devices = [pool for pool in pools if pool.device == "L4"]
    there = sum(pool.devices * (pool.running + pool.starting + pool.stopping) for pool in devices)
    more = sum(pool.devices * max(0, wanted[pool.pool] - pool.running - pool.starting) for pool in devices)
    assert more == 0 or there + more <= limit + 1e-6


def test_who_waits_for_a_pool_without_replicas_gets_one_of_that_pool() -> None:
    """Whichever pool of the stage is cheaper: the items are in that one's line already."""
    cheap = PoolState("cheap", (StageLoad("m.0", speed(0.1)),), devices=1.0, min_replicas=0, max_replicas=4)
    dear = PoolState("dear", (StageLoad("m.0", speed(0.1)),), devices=4.0, min_replicas=0, max_replicas=4)
    asked = replace(dear, stages=(replace(dear.stages[0], num_items=2, backlog=ITEM * 2),))
    assert targets([cheap, asked], Budget(), RULES, Memory(), 0.0)[0]["dear"] == 1
    assert targets([cheap, asked], Budget({"cpu": 3.0}), RULES, Memory(), 0.0)[0]["dear"] == 0
    assert targets([cheap, replace(asked, max_replicas=0)], Budget(), RULES, Memory(), 0.0)[0]["dear"] == 0
    assert targets([cheap, dear], Budget(), RULES, Memory(), 0.0)[0] == {"cheap": 0, "dear": 0}


def test_a_scaler_that_begins_anew_goes_on_from_what_is_there() -> None:
    busy = PoolState("a", (StageLoad("m.0", speed(0.1), num_items=20, backlog=ITEM * 20),), running=7, max_replicas=9)
    assert targets([busy], Budget(), RULES, Memory(), 0.0)[0] == {"a": 7}


def test_a_replica_that_fails_its_items_counts_as_little() -> None:
    """Half of what it does is nothing worth."""
    busy = StageLoad("m.0", speed(0.1), arriving=20.0, work=ITEM * 20.0, leaving=20.0, num_items=8, backlog=ITEM * 8)

    def after(failing: float) -> int:
        one, memory = PoolState("a", (busy,), running=3, max_replicas=20, failing=failing), Memory()
        for step in range(20):
            wanted, memory = targets([one], Budget(), RULES, memory, 2.0 * step)
            one = replace(one, running=wanted["a"])
        return one.running

    assert after(0.5) >= 1.8 * after(0.0)


def test_the_stages_of_one_process_share_its_device() -> None:
    """Alone, either would need one replica and a half."""

    def busy(stage: str) -> StageLoad:
        return StageLoad(stage, speed(0.1), arriving=10.0, work=ITEM * 10.0, leaving=10.0, num_items=4, backlog=ITEM * 4)

    def after(*stages: str) -> int:
        one, memory = PoolState("a", tuple(map(busy, stages)), running=1, max_replicas=20), Memory()
        for step in range(20):
            wanted, memory = targets([one], Budget(), RULES, memory, 2.0 * step)
            one = replace(one, running=wanted["a"])
        return one.running

    assert 2 * after("m.0") - 1 <= after("m.0", "n.0") <= 2 * after("m.0") + 1


@pytest.mark.parametrize("lately", [(0.0, 0.4), (0.4, 0.0), (0.0, 0.0), (0.3, 0.3)])
def test_what_a_few_seconds_bring_to_stages_that_share_a_process_takes_and_gives_no_replica(
    lately: tuple[float, float],
) -> None:
    """One of them takes nearly all of the device; which of them has more of the few items that came just now is chance."""

    def state(slow: float, quick: float) -> PoolState:
        loads = [
            StageLoad(stage, speed(step_s), arriving=rate, work=ITEM * rate, leaving=rate)
            for stage, step_s, rate in (("m.0", 5.0, slow), ("m.1", 0.02, quick))
        ]
        return PoolState("a", tuple(loads), running=2, max_replicas=20)

    memory, counts = Memory(), set()
    for step in range(300):
        rates = (0.2, 0.2) if step < 280 else lately
        wanted, memory = targets([state(*rates)], Budget(), RULES, memory, 2.0 * step)
        counts.add(wanted["a"])
    assert counts == {2}


@pytest.mark.parametrize(("budget", "expected"), [({"L4": 2.0}, {"a": 2}), ({"L4": 1.0}, {"a": 1}), ({}, {"a": 3})])
def test_minimums_are_kept_as_far_as_the_budget_goes(budget: dict[str, float], expected: dict[str, int]) -> None:
    three = PoolState("a", (StageLoad("m.0"),), device="L4", min_replicas=3, max_replicas=3)
    assert targets([three], Budget(budget), RULES, Memory(), 0.0)[0] == expected
