"""How long it takes to choose a replica: `python -m benchmarks.ranking` (some seconds). Microseconds, and beside them how many times a
plain minimum over as many numbers that is, since machines differ.

Decides what is ranked: replicas that have something else to do and hold something else, asked of Serve's own account whether they are full.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve._private.request_router.common import ReplicaQueueLengthCache

from benchmarks.reporting.command import results_folder, start
from benchmarks.reporting.report import Goal, Report
from pipelines.routing.candidate import Wanted
from pipelines.routing.table import Member, ReplicaTable
from stages.contract.cost import Part, Speed, StepTimes
from stages.contract.news import Hints, StageNews, hint
from stages.contract.work import Work

POOLS = ("fast", "medium", "slow")
STAGE, WORK = "model.stage", Work(100.0, 20.0)
ROUNDS, TIMES = 31, 100
GOAL_US = 50.0


def microseconds(act: Callable[[], object]) -> float:
    """Of a core, for one: the median over rounds."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(TIMES):
            act()
        rounds.append((time.thread_time() - began) / TIMES * 1e6)
    return statistics.median(rounds)


def table_of(num_replicas: int, num_tenants: int = 0) -> ReplicaTable:
    """Three pools of speeds 1 : 3 : 6, of which each replica has something else to do and holds something else. `num_tenants`: whose that
    is, in equal parts (0: nobody tells)."""
    table, ongoing = ReplicaTable(random.Random(1).random), ReplicaQueueLengthCache()
    for pool, times in (("fast", 1), ("medium", 2), ("slow", 6)):
        names = [f"{pool}{number}" for number in range(num_replicas // 3 + (pool == "fast") * (num_replicas % 3))]
        ids = {name: ReplicaID(name, DeploymentID(pool, "app")) for name in names}
        for number, name in enumerate(names):
            ongoing.update(ids[name], number % 20)
        table.members(pool, [Member(name, 64) for name in names], lambda name, ids=ids: ongoing.get(ids[name]), 0.0)  # type: ignore[misc]
        speed = Speed(StepTimes(((1.0, 0.01 * times), (64.0, 0.02 * times))), max_rows=16, max_amount=64.0)
        for number, name in enumerate(names):
            holds = frozenset(hint(f"{name} {one}") for one in range(200))
            part = Part(WORK * (number % 20 / max(1, num_tenants)), number % 20 / max(1, num_tenants))
            tenants = dict.fromkeys(range(1, num_tenants + 1), part)
            work, count = WORK * (number % 20), number % 20
            told = StageNews(STAGE, name, "gpu", "float32", speed, work, count, holds=holds, number=1, tenants=tenants)
            table.heard(pool, told, time.monotonic())
    return table


def main() -> None:
    quick = start(__doc__)
    chain = tuple(hint(f"page {number}") for number in range(94))
    asked = {
        "nothing known of it": Wanted(WORK),
        "a result's name": Wanted(Work(1.0), Hints((7,), Work(1.0)), name=7),
        "a prompt of 94 blocks": Wanted(WORK, Hints(chain, Work(1.0, 0.1))),
    }
    report = Report("ranking", {"pools": len(POOLS)})
    of_tenant = {"nothing known of it, 8 tenants": Wanted(WORK, tenant=1)}
    for num_replicas, num_tenants in ((16, 0), (1000, 0), (16, 8)):
        table = table_of(num_replicas, num_tenants)
        for what, wanted in (of_tenant if num_tenants else asked).items():
            taken = microseconds(lambda wanted=wanted, table=table: table.ranked(STAGE, POOLS, wanted, time.monotonic()))  # type: ignore[misc]
            plain = microseconds(lambda: min([float(number) for number in range(16)]))
            report.add(side=f"{num_replicas} replicas", load=what, us=round(taken, 1), times_a_minimum=round(taken / plain, 1))
            report.goals.append(Goal(f"{num_replicas} replicas, {what}: microseconds", round(taken, 1), GOAL_US, at_most=True))
    report.publish(results_folder(quick=quick))


if __name__ == "__main__":
    main()
