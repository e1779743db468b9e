"""Devices that run out of memory, break or hang, behind real Ray: replicas of the product's own class with stages that fail so."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.cluster.serve_client import ServeStageClient
from pipelines.settings.replica_spec import CacheSpec, ReplicaSpec
from stages.contract.errors import Broken
from stages.contract.item import Item, StageMetrics, StreamEnd
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.stage import Stepped
from tests.stages.fakes import Count, Countdown, CountFrom

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

STAGE = "count"
NEVER_S = 600
MAX_STEP_S = 2.0


class RoomForFour(Countdown):
    def __init__(self) -> None:
        super().__init__(slots=64)

    def step(self, rows: Sequence[Count]) -> Sequence[Stepped]:
        if len(rows) > 4:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().step(rows)


class FirstProcessFails(Countdown):
    """In the first process that runs it, the second step and all after it go wrong. `mark` is where that process is named."""

    def __init__(self, mark: Path, go_wrong: Callable[[], None]) -> None:
        super().__init__(slots=1)
        self._mark, self._go_wrong = mark, go_wrong

    def step(self, rows: Sequence[Count]) -> Sequence[Stepped]:
        if not self._mark.exists():
            self._mark.write_text(str(os.getpid()))
        if self._mark.read_text() == str(os.getpid()) and self.steps:
            self._go_wrong()
        return super().step(rows)


def lose_device() -> None:
    raise RuntimeError("CUDA error: device-side assert triggered")


def never_return() -> None:
    threading.Event().wait(NEVER_S)


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    from benchmarks.cluster import cluster

    with cluster():
        yield


def deployed(name: str, make: Callable[[], Countdown]) -> tuple[ServeStageClient, Any, Any]:
    """A client, the deployment's handle and the metrics table's."""
    from ray import serve

    from pipelines.cluster.metrics_table import MetricsTable
    from pipelines.cluster.stage_deployment import TINY, ServedReplica

    class Replica(ServedReplica):
        def __init__(self, table: Any) -> None:
            super().__init__(ReplicaSpec(name, (), CacheSpec(memory_bytes=0), torch_threads=1), table)
            self.host.add(STAGE, make(), batch=BatchLimits(16), queue=QueueLimits(64), max_step_s=MAX_STEP_S)

    table = serve.deployment(MetricsTable).options(name="metrics", ray_actor_options=TINY).bind()
    options: dict[str, Any] = {"max_ongoing_requests": 64, "ray_actor_options": TINY}
    healing = {"health_check_period_s": 0.5, "graceful_shutdown_timeout_s": 120, "graceful_shutdown_wait_loop_s": 0.2}
    handle = serve.run(
        serve.deployment(Replica).options(name=name, **options, **healing).bind(table), name=name, route_prefix=None
    )
    return ServeStageClient({name: handle}, {STAGE: name}), handle, serve.get_deployment_handle("metrics", name)


async def numbers(client: ServeStageClient, start: int) -> list[object]:
    """What a request has been shown, and how it ended if not well."""
    seen: list[object] = []
    try:
        async for events in client.stream(STAGE, Item("id", CountFrom(start))):
            seen += [event for event in events if not isinstance(event, StreamEnd)]
    except Broken as error:
        seen.append(error)
    return seen


async def counters(table: Any, wanted: str) -> dict[str, float]:
    """What the replica has reported, once a counter of that name is more than 0. pytest's timeout ends it."""
    while True:
        rows: list[StageMetrics] = await table.read.remote()
        if rows and rows[0].counters[wanted]:
            return dict(rows[0].counters)
        await asyncio.sleep(0.1)


async def test_with_room_for_4_rows_48_requests_succeed(ray: None) -> None:
    client, _, table = deployed("cramped", RoomForFour)
    answers = await asyncio.gather(*(numbers(client, 5) for _ in range(48)))
    assert answers == [[4, 3, 2, 1, 0]] * 48
    told = await counters(table, "out_of_memory_total")
    assert 2 <= told["batch_bound_cost"] < 8
    assert told["failed_total"] == 0


@pytest.mark.parametrize("go_wrong", [lose_device, never_return])
async def test_a_broken_replica_is_replaced_and_what_has_shown_nothing_runs_there(
    ray: None, tmp_path: Path, go_wrong: Callable[[], None]
) -> None:
    mark = tmp_path / "mark"
    client, _, _ = deployed(go_wrong.__name__, partial(FirstProcessFails, mark, go_wrong))
    (before,) = processes(go_wrong.__name__)
    answers = await asyncio.gather(*(numbers(client, 3) for _ in range(6)))
    assert mark.read_text() == str(before)
    shown = [answer for answer in answers if answer != [2, 1, 0]]
    assert len(shown) == 1  # one row at a time
    assert shown[0][0] == 2
    assert isinstance(shown[0][1], Broken)
    assert processes(go_wrong.__name__) - {before}
    await asyncio.to_thread(gone, before)


def processes(deployment: str) -> set[int]:
    """Of its replicas."""
    title = f"ServeReplica:{deployment}:{deployment}"
    running = psutil.process_iter(["cmdline"])
    return {process.pid for process in running if title in " ".join(process.info["cmdline"] or [])}


def gone(pid: int) -> None:
    """Returns once the process has ended. pytest's timeout ends it."""
    try:
        psutil.Process(pid).wait(timeout=60)
    except psutil.NoSuchProcess:
        return
