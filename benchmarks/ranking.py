"""How long it takes to choose a replica: `python -m benchmarks.ranking`. Microseconds, and beside them how many times a plain minimum over
as many numbers that is, since machines differ."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

from pipelines.routing.candidate import Wanted
from pipelines.routing.table import Member, ReplicaTable
from stages.contract.cost import Speed, StepTimes
from stages.contract.news import Hints, StageNews, hint
from stages.contract.work import Work

POOLS = ("fast", "medium", "slow")
STAGE, WORK = "model.stage", Work(100.0, 20.0)
ROUNDS, TIMES = 15, 200


def microseconds(act: Callable[[], object]) -> float:
    """Of a core, for one: the median over rounds."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(TIMES):
            act()
        rounds.append((time.thread_time() - began) / TIMES * 1e6)
    return statistics.median(rounds)


def table_of(num_replicas: int) -> ReplicaTable:
    """Three pools of speeds 1 : 3 : 6, of which each replica has something else to do and holds something else."""
    table = ReplicaTable(random.Random(1).random)
    for pool, times in (("fast", 1), ("medium", 2), ("slow", 6)):
        names = [f"{pool}{number}" for number in range(num_replicas // 3 + (pool == "fast") * (num_replicas % 3))]
        table.members(pool, [Member(name, 64) for name in names], lambda replica: None, 0.0)
        speed = Speed(StepTimes(((1.0, 0.01 * times), (64.0, 0.02 * times))), max_rows=16, max_amount=64.0)
        for number, name in enumerate(names):
            holds = frozenset(hint(f"{name} {one}") for one in range(200))
            told = StageNews(STAGE, name, "gpu", "float32", speed, WORK * (number % 20), number % 20, holds=holds, number=1)
            table.heard(pool, told, time.monotonic())
    return table


def main() -> None:
    chain = tuple(hint(f"page {number}") for number in range(94))
    asked = {
        "nothing known of it": Wanted(WORK),
        "a result's name": Wanted(Work(1.0), Hints((7,), Work(1.0)), name=7),
        "a prompt of 94 blocks": Wanted(WORK, Hints(chain, Work(1.0, 0.1))),
    }
    for num_replicas in (16, 1000):
        table = table_of(num_replicas)
        for what, wanted in asked.items():
            taken = microseconds(lambda wanted=wanted, table=table: table.ranked(STAGE, POOLS, wanted, time.monotonic()))  # type: ignore[misc]
            plain = microseconds(lambda: min([float(number) for number in range(16)]))
            print(f"{num_replicas:5} replicas, {what:22} {taken:6.1f} us, {taken / plain:5.1f} times a plain minimum of 16")


if __name__ == "__main__":
    main()
