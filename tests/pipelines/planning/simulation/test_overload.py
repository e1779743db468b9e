"""More is asked than a fleet can do: the product's own router and admission, in virtual time."""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial
from itertools import takewhile

import pytest

from pipelines.planning.simulation.arrivals import poisson
from pipelines.planning.simulation.fleet import Delay, Fleet, Hosted, Pool, Stage, Ways
from pipelines.planning.simulation.own import OwnRouter
from pipelines.planning.simulation.result import Figures
from pipelines.planning.simulation.simulation import simulate
from pipelines.planning.simulation.workload import Request, Task
from pipelines.routing.admission import Admission
from stages.contract.cost import Speed, StepTimes

ENCODER, PAINTER = "m.encoder", "m.painter"
URGENT, LATER = "urgent", "not urgent"
SECONDS, SETTLED_S, DEADLINE_S = 32.0, 12.0, 8.0
TIMES = (0.5, 1.0, 1.5, 5.0)


@dataclass(frozen=True)
class Case:
    """Two pools of unlike speed; `steps`: an item's, 1: of a one-shot stage."""

    stage: str
    steps: tuple[int, ...]

    def fleet(self) -> Fleet:
        is_iterative = self.stage == PAINTER
        pools = []
        for name, times, replicas in (("fast", 1.0, 1), ("slow", 3.0, 2)):
            step = StepTimes(((1.0, 0.06 * times), (8.0, 0.2 * times)))
            speed = Speed(step, 8, math.inf, is_one_shot=not is_iterative)
            pools.append(Pool(name, name, (Hosted(self.stage, speed),), replicas))
        ways = Ways(hop=Delay(0.002, 0.5), door=Delay(0.005, 0.5))
        return Fleet((Stage(self.stage, is_iterative),), tuple(pools), num_callers=2, ways=ways)

    def capacity(self) -> float:
        """Requests a second with full batches."""
        mean = Task(self.stage, steps=1).work(1) * (sum(self.steps) / len(self.steps))
        return sum(pool.replicas * pool.stages[0].speed.rate(mean) for pool in self.fleet().pools)

    def requests(self, times: float) -> Iterable[Request]:
        source = random.Random(7)
        for at in takewhile(lambda at: at < SECONDS, poisson(times * self.capacity(), 3)):
            later = source.random() < 0.4
            task = Task(self.stage, steps=source.choice(self.steps))
            yield Request(at, (task,), LATER if later else URGENT, deadline_s=DEADLINE_S, priority=int(later))


CASES = {"batches": Case(ENCODER, (1,)), "rows": Case(PAINTER, (5, 10, 25))}


@cache
def figures(case: str, times: float, kind: str | None = None) -> Figures:
    router = partial(OwnRouter, admission=Admission())
    result = simulate(CASES[case].fleet(), CASES[case].requests(times), router, window=(SETTLED_S, SECONDS))
    return result.figures(kind)


@pytest.mark.parametrize("case", CASES)
def test_however_much_more_is_asked_as_much_is_done_in_time(case: str) -> None:
    done = [figures(case, times).rate for times in TIMES]
    assert done[-1] >= 0.95 * max(done)
    assert done[-1] >= 0.85 * CASES[case].capacity()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("times", TIMES)
def test_of_what_is_admitted_ninety_nine_of_a_hundred_end_before_their_deadline(case: str, times: float) -> None:
    found = figures(case, times)
    assert found.num_late <= 0.01 * (found.num_late + found.num_done)
    assert found.p99_s <= DEADLINE_S


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_urgent_is_refused_first(case: str) -> None:
    urgent, later = (figures(case, 1.5, kind) for kind in (URGENT, LATER))
    assert urgent.num_done / urgent.num > 0.85
    assert later.num_done / later.num < urgent.num_done / urgent.num - 0.2
    assert figures(case, 5.0, LATER).num_done <= 0.05 * figures(case, 5.0, LATER).num
    assert figures(case, 0.5, URGENT).num_refused == 0
