"""Five times as much is asked as two pools can do, on real Serve: what is refused, and whether what is admitted keeps its deadline. What is
counted is items; the load without overload is measured beside it. How many of a hundred may be late is tested in virtual time
(`tests/pipelines/planning/simulation/test_overload.py`)."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from enum import Enum

import pytest

from pipelines.client import Visit
from pipelines.cluster.serve_client import ServeStageClient
from stages.contract.errors import DeadlineExceeded, QueueFull
from stages.contract.item import Item
from stages.contract.work import Work
from tests.cluster.paced_pools import CAPACITY, STAGE, paced_pools
from tests.stages.fakes import Add

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

DEADLINE_S, SECONDS = 3.0, 8.0
STOOD_STILL_S = 1.0
"""A machine that stood still for so long made late what is not late by itself: then all is asked again."""
NUM_TRIES = 3
URGENT, LATER = 0, 1


class End(Enum):
    DONE = "done"
    LATE = "late"
    REFUSED = "refused"


@pytest.fixture(scope="module")
def client() -> Iterator[ServeStageClient]:
    with paced_pools() as made:
        yield made


async def one(client: ServeStageClient, number: int, priority: int) -> tuple[int, End]:
    """As a pipeline does it: admitted, or refused at once."""
    deadline, work = time.time() + DEADLINE_S, Work(1.0)
    try:
        client.admit([Visit(STAGE, work)], deadline=deadline, priority=priority)
        await client.call(STAGE, Item(f"r{number}", Add(2, 20 + number), priority=priority, deadline=deadline, work=work))
    except QueueFull:
        return priority, End.REFUSED
    except DeadlineExceeded:
        return priority, End.LATE
    return priority, End.DONE


async def loaded(client: ServeStageClient, rate: float, seconds: float) -> tuple[Counter[tuple[int, End]], float]:
    """Items come at random, whatever becomes of those before them; half of them are not urgent. And for how long, at most, this process
    was held up meanwhile, in seconds."""
    source, at, held_up_s = random.Random(5), time.monotonic(), 0.0
    asked: list[asyncio.Future[tuple[int, End]]] = []
    until = at + seconds
    while at < until:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        held_up_s = max(held_up_s, time.monotonic() - at)
        asked.append(asyncio.ensure_future(one(client, len(asked), source.choice((URGENT, LATER)))))
        at += source.expovariate(rate)
    return Counter(await asyncio.gather(*asked)), held_up_s


async def test_overload_costs_nothing_of_what_is_done_in_time_and_what_is_not_urgent_is_refused_first(
    client: ServeStageClient,
) -> None:
    await loaded(client, 0.5 * CAPACITY, 4.0)  # tells how fast they are
    for _ in range(NUM_TRIES):
        usual, held_up_s = await loaded(client, CAPACITY, SECONDS)
        much, held_up_then_s = await loaded(client, 5 * CAPACITY, SECONDS)
        if max(held_up_s, held_up_then_s) < STOOD_STILL_S:
            break
    assert done(much) >= 0.9 * done(usual)
    assert much[URGENT, End.LATE] + much[LATER, End.LATE] <= 0.1 * done(much)  # a busy test machine makes some late by itself
    assert much[URGENT, End.REFUSED] + much[LATER, End.REFUSED] >= 2 * done(much)
    assert much[LATER, End.DONE] <= 0.25 * much[URGENT, End.DONE]


def done(counts: Counter[tuple[int, End]]) -> int:
    return counts[URGENT, End.DONE] + counts[LATER, End.DONE]
