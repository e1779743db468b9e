"""Devices that run out of memory, break or hang, and items that end their process, behind real Ray: replicas of the product's own class
with stages that fail so."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from pipelines.cluster.serve_client import ServeStageClient
from pipelines.embed import ClipEmbedPipeline
from pipelines.jobs import EmbedPipeline
from pipelines.settings.serve.replica_spec import CacheSpec, ReplicaSpec
from pipelines.threads import Threads
from stages.contract.errors import Broken
from stages.contract.item import Item, ReplicaEnded, StageMetrics, StreamEnd
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.stage import Stepped
from stages.engine.scheduling.memory_bound import PATIENCE, RISE
from stages.vision.messages import Embedding, EmbedInput
from tests.cluster.fake_stages import WORK, UnitEmbedder
from tests.pipelines.ingress.fakes import EMBED, FakeService
from tests.pipelines.ingress.surface import server_for
from tests.stages.fakes import Count, Countdown, CountFrom

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

STAGE = "count"
NEVER_S = 600
HANGS_S, STANDS_STILL_S = 2.0, 60.0
"""How long a step may take: where one hangs, and where none does, however long the machine stands still."""


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


class FirstProcessHangsAtTheDoor(Countdown):
    """In the first process that is asked anything, `check` never returns, and it is the event loop that waits for it."""

    def __init__(self, mark: Path) -> None:
        super().__init__()
        self._mark = mark

    def check(self, payload: CountFrom) -> None:
        if not self._mark.exists():
            self._mark.write_text(str(os.getpid()))
            never_return()


POISON = "poison"


class Poisoned(UnitEmbedder):
    """One text ends the process that embeds it. `deaths` is where each is named."""

    def __init__(self, deaths: Path) -> None:
        super().__init__()
        self._deaths = deaths

    def run(self, batch: Sequence[EmbedInput]) -> Sequence[Embedding]:
        if any((item.text or "").startswith(POISON) for item in batch):
            with self._deaths.open("a") as deaths:
                deaths.write(f"{os.getpid()}\n")
            time.sleep(
                0.5
            )  # as work takes: of a process that ends at once Serve may not hear that it took the request in, and sends it on
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(batch)


class OverServe(FakeService):
    """The HTTP surface's service, with the real pipeline over a real deployment."""

    def __init__(self, client: ServeStageClient) -> None:
        super().__init__()
        self._client, self._threads = client, Threads.new()
        self.num_asked = 0

    def embed_pipeline(self, model: str) -> EmbedPipeline:
        self.num_asked += 1
        return ClipEmbedPipeline(model, self._client, WORK, threads=self._threads, fingerprint="f", max_pixels=100)


def lose_device() -> None:
    raise RuntimeError("CUDA error: device-side assert triggered")


def never_return() -> None:
    threading.Event().wait(NEVER_S)


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    from benchmarks.servers.cluster import cluster

    with cluster():
        yield


def deployed(
    name: str,
    make: Callable[[], Any],
    *,
    stage: str = STAGE,
    replicas: int = 1,
    max_step_s: float = STANDS_STILL_S,
    **healing: float,
) -> tuple[ServeStageClient, Any, Any]:
    """A client, the deployment's handle and the metrics table's."""
    from ray import serve

    from pipelines.cluster.stage_deployment import TINY, ServedReplica
    from pipelines.cluster.state.metrics_table import MetricsTable

    class Replica(ServedReplica):
        def __init__(self, table: Any) -> None:
            super().__init__(ReplicaSpec(name, (), CacheSpec(memory_bytes=0), torch_threads=1), table)
            self.host.add(stage, make(), batch=BatchLimits(16), queue=QueueLimits(64), max_step_s=max_step_s)

    table = serve.deployment(MetricsTable).options(name="metrics", ray_actor_options=TINY).bind()
    options: dict[str, Any] = {"max_ongoing_requests": 64, "ray_actor_options": TINY, "num_replicas": replicas}
    healing = {
        "health_check_period_s": 0.5,
        "graceful_shutdown_timeout_s": 120,
        "graceful_shutdown_wait_loop_s": 0.2,
        **healing,
    }
    handle = serve.run(
        serve.deployment(Replica).options(name=name, **options, **healing).bind(table), name=name, route_prefix=None
    )
    return ServeStageClient({name: handle}, {stage: [name]}), handle, serve.get_deployment_handle("metrics", name)


async def numbers(client: ServeStageClient, start: int) -> list[object]:
    """What a request has been shown, and how it ended if not well."""
    seen: list[object] = []
    try:
        async for events in client.stream(STAGE, Item("id", CountFrom(start))):
            seen += [event for event in events if not isinstance(event, (StreamEnd, ReplicaEnded))]
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
    num_rises = 48 * 5 // PATIENCE  # at most, where the requests come so slowly that each step has one row
    assert 2 <= told["batch_bound_cost"] <= 5 * RISE**num_rises
    assert told["failed_total"] == 0


@pytest.mark.parametrize("go_wrong", [lose_device, never_return])
async def test_a_broken_replica_is_replaced_and_what_has_shown_nothing_runs_there(
    ray: None, tmp_path: Path, go_wrong: Callable[[], None]
) -> None:
    mark = tmp_path / "mark"
    client, _, _ = deployed(go_wrong.__name__, partial(FirstProcessFails, mark, go_wrong), max_step_s=HANGS_S)
    (before,) = processes(go_wrong.__name__)
    answers = await asyncio.gather(*(numbers(client, 3) for _ in range(6)))
    assert mark.read_text() == str(before)
    shown = [answer for answer in answers if answer != [2, 1, 0]]
    assert len(shown) == 1  # one row at a time
    assert shown[0][0] == 2
    assert isinstance(shown[0][1], Broken)
    assert processes(go_wrong.__name__) - {before}
    await asyncio.to_thread(gone, before)


async def test_a_stage_that_holds_up_the_event_loop_is_replaced_and_what_waits_there_runs_elsewhere(
    ray: None, tmp_path: Path
) -> None:
    """What `check`, `weigh` and `needs` do, they do there. Serve's own check of health has a time limit."""
    mark = tmp_path / "mark"
    make = partial(FirstProcessHangsAtTheDoor, mark)
    client, _, _ = deployed("door", make, health_check_timeout_s=1.0, graceful_shutdown_timeout_s=1.0)
    assert await numbers(client, 3) == [2, 1, 0]
    await asyncio.to_thread(gone, int(mark.read_text()))


@pytest.mark.parametrize(("replicas", "num_bad"), [(1, 1), (2, 1), (2, 4)])
async def test_a_request_that_ends_its_process_ends_one_more_and_is_not_tried_again_by_anyone(
    ray: None, tmp_path: Path, replicas: int, num_bad: int
) -> None:
    deaths = tmp_path / "deaths"
    stage = f"{EMBED}.embedder"
    name = f"poisoned-{replicas}-{num_bad}"
    client, _, _ = deployed(name, partial(Poisoned, deaths), stage=stage, replicas=replicas)
    service = OverServe(client)
    texts = [f"text {number}" for number in range(8)] + [f"{POISON} {number}" for number in range(num_bad)]
    async with (
        server_for(service) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as sdk,  # with the two retries that it has by itself
    ):
        with pytest.raises(openai.InternalServerError) as failed:
            await sdk.embeddings.create(model=EMBED, input=texts)
        assert failed.value.status_code == 500
        assert failed.value.code == "replica_lost"
        assert failed.value.response.headers["x-should-retry"] == "false"
        assert service.num_asked == 1
        assert len(set(deaths.read_text().split())) == 2
        answer = await sdk.embeddings.create(model=EMBED, input="something else")  # the third replica is there for others
    assert len(answer.data) == 1
    assert len(set(deaths.read_text().split())) == 2


def processes(deployment: str) -> set[int]:
    """Of its replicas."""
    title = f"ServeReplica:{deployment}:{deployment}"
    running = psutil.process_iter(["cmdline"])
    return {process.pid for process in running if title in " ".join(process.info["cmdline"] or [])}


def gone(pid: int) -> None:
    """Returns once the process has ended. pytest's timeout ends it."""
    try:
        psutil.Process(pid).wait(timeout=300)
    except psutil.NoSuchProcess:
        return
