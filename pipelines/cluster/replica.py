"""One replica: a process that hosts the stages of one deployment. Ray Serve makes it, calls it, checks it and lets it go.

Loads its stages, warms them up, hands every call to the host, and reports counters to the metrics table. What its stages need of
stages in other deployments is called for from here. What runs when is the engines' affair; which replica is called is the caller's.
The class is plain Python: `pipelines/cluster/stage_deployment.py` makes a deployment of it.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipelines.cluster.loop_watch import LoopWatch
from pipelines.cluster.pieces import pieces
from pipelines.cluster.scaling.autoscaling import LOAD
from pipelines.cluster.scaling.waiting import TellsWaiting
from pipelines.planning.scaling.observation import Told
from pipelines.routing.published import NEWS, as_published
from pipelines.routing.table import pool_key
from pipelines.settings.cautions import only_its_node
from pipelines.settings.private_redis import embedded_directory
from pipelines.settings.serve.replica_spec import ReplicaSpec
from pipelines.telemetry.telling import ProcessTelling
from stages.concurrency.thread_pool import DaemonThreads
from stages.contract.errors import StageFailed, TriptychError
from stages.contract.item import Item, Reply, StreamEnd
from stages.contract.message import readable
from stages.contract.news import StageNews
from stages.device.cores import available_cores, cores_of_this_machine
from stages.device.openmp import limit_threads
from stages.engine.health import MAX_STEP_S
from stages.host.host import StageHost
from stages.host.kinds.loading import load_into, make_ready
from stages.host.makers import StageCaller
from stages.host.packed_item import PackedItem, unpacked
from stages.profiles.profile_files import Profiles, read_profiles

REPORT_PERIOD_S = 1.0
REPORT_UNCHANGED_S = 10.0  # well within what the table takes for a sign of life
log = logging.getLogger("triptych.replica")


class StageReplica:
    """Hosts the stages of `spec`. `table` is the handle of the metrics table, if there is one; `elsewhere` reaches the stages of
    other deployments whose results its own stages need. `telling`: of the process that it is in, where it is not alone there."""

    def __init__(
        self,
        spec: ReplicaSpec,
        table: Any = None,
        elsewhere: StageCaller | None = None,
        telling: ProcessTelling | None = None,
    ) -> None:
        self._spec, self._table = spec, table
        self._identity = replica_identity()
        self.telling = telling if telling is not None else ProcessTelling(self._identity)
        threads = spec.torch_threads or available_cores()
        limit_threads(threads)
        make_ready(spec.stages)
        began = time.monotonic()
        self._host = StageHost(
            cache=spec.cache.open(),
            pages=spec.pages.open() if spec.pages is not None else None,
            replica=self._identity,
            cores=cores_of_this_machine(),
            torch_threads=threads,
            elsewhere=elsewhere,
            tracer=self.telling.tracer,
        )
        profiles = read_profiles(Path(spec.profiles)) if spec.profiles else Profiles()
        for stage in spec.stages:
            with time_limit(stage.max_load_s, f"loading {stage.name}", "models.*.*.max_load_s"):
                loaded = load_into(self._host, stage, profiles)
            seconds, device = time.monotonic() - began, loaded.stage.device
            log.info("%s loaded from %s on %s in %s, in %.1f s", stage.name, stage.source, device, loaded.dtype, seconds)
        self._reporting: asyncio.Task[None] | None = None
        self._waiting = TellsWaiting(table, self._identity) if table is not None and elsewhere is not None else None
        self._watch: LoopWatch | None = None
        self._published: tuple[StageNews, ...] = ()
        self._published_at, self._published_bytes = float("-inf"), b""

    @property
    def host(self) -> StageHost:
        return self._host

    async def call(self, stage: str, item: Item[Any], to: object = None) -> Reply[Any]:
        """`to` has served its purpose: it told the caller's router whom to take. Raises `Unreadable`, as `stream` does."""
        self._begin_on_this_loop()
        reply = await self._host.call(stage, readable(item))
        return replace(reply, news=self._host.news())

    async def answer(self, stage: str, item: PackedItem, to: object = None) -> AsyncIterator[bytes]:
        """As `call`, in pieces. Raises any `TriptychError`, and nothing else: every version can read those."""
        with _told_so_that_all_can_read(stage):
            for piece in pieces(await self.call(stage, unpacked(item, ()))):
                yield piece

    async def stream(
        self, stage: str, item: Item[Any] | PackedItem, *beside: NDArray[Any], to: object = None
    ) -> AsyncIterator[Sequence[object] | bytes]:
        """Events as they come, or pieces of them, where the caller takes those. Raises as `answer` does."""
        self._begin_on_this_loop()
        in_pieces = isinstance(item, PackedItem) and item.in_pieces
        with _told_so_that_all_can_read(stage):
            async with aclosing(self._host.stream(stage, unpacked(item, beside))) as batches:
                async for events in batches:
                    told = self._with_news(events)
                    for piece in pieces(told) if in_pieces else (told,):
                        yield piece

    def _with_news(self, events: Sequence[object]) -> Sequence[object]:
        end = events[-1]
        return [*events[:-1], replace(end, news=self._host.news())] if isinstance(end, StreamEnd) else events

    async def check_health(self) -> None:
        """Called by Serve; raises where a stage's device is broken or its thread has died, and is then replaced.

        Serve 2.60 replaces a replica that raises three times in a row. Where RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS is set, as
        `triptych serve` does, it kills it then (a broken engine has failed its own calls by then; those of other stages of the replica
        go on elsewhere). Else it stops it gracefully: it waits for calls that are under way, then for `close` (which waits for no
        device that is broken), and only then kills it.
        """
        self._begin_on_this_loop()
        self._host.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve. What the engines have in hand: what waits for another stage's result is no work for this one."""
        return {LOAD: float(sum(load.queued + load.running for load in self._host.load().values()))}

    async def record_routing_stats(self) -> dict[str, bytes]:
        """Called by Serve, which publishes what is new of it to every process that routes here."""
        news, now = self._host.news(), time.monotonic()
        told = tuple(replace(one, number=0) for one in news)
        if told != self._published or now - self._published_at > REPORT_UNCHANGED_S:
            self._published, self._published_at = told, now
            self._published_bytes = as_published(news)
        return {NEWS: self._published_bytes}

    def _begin_on_this_loop(self) -> None:
        """Reports on, and watches, the loop that calls arrive on, which is not there yet in the constructor."""
        if self._watch is None:
            limit_s = max((stage.max_step_s for stage in self._spec.stages), default=MAX_STEP_S)
            self._watch = LoopWatch(limit_s, _end_process)
        if self._table is not None and (self._reporting is None or self._reporting.done()):
            self._reporting = asyncio.create_task(self._report())
        if self._waiting is not None:
            self._waiting.begin()

    async def _report(self) -> None:
        """Every second where there is news: an idle stage takes no notice of the clock, nor any of the CPU."""
        told: object = None
        told_at = float("-inf")
        while True:
            activity, now = self._host.activity(), time.monotonic()
            if activity != told or now - told_at > REPORT_UNCHANGED_S:
                try:
                    metrics = [replace(stage, pool=self._spec.deployment) for stage in self._host.metrics()]
                    await self._table.report.remote(self._identity, metrics, self._told(now))
                    told, told_at = activity, now
                except Exception as error:  # the table is being replaced; counters are cumulative, so nothing is lost
                    log.warning("metrics not reported: %s: %s", type(error).__name__, error)
            await asyncio.sleep(max(0.0, now + REPORT_PERIOD_S - time.monotonic()))

    def _told(self, at: float) -> Told:
        news = tuple(replace(one, holds=frozenset()) for one in self._host.news())
        return Told(_pool(self._spec.deployment), news, at)

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        if self._reporting is not None:
            self._reporting.cancel()
        if self._waiting is not None:
            self._waiting.close()
        await self._host.close()
        await self.telling.close()


@contextmanager
def _told_so_that_all_can_read(stage: str) -> Iterator[None]:
    try:
        yield
    except TriptychError:
        raise
    except Exception as error:
        log.exception("%s failed", stage)
        raise StageFailed(f"{stage} failed", detail=f"{type(error).__name__}: {error}") from None


def _end_process(where: str) -> None:
    """Serve would stop it in order, and wait for the requests that its loop can't end, its device taken meanwhile."""
    log.critical("the event loop has stopped turning (models.*.*.max_step_s); this process ends. It is here:\n%s", where)
    os._exit(1)


@contextmanager
def time_limit(seconds: float, what: str, setting: str) -> Iterator[None]:
    """Ends the process where what is inside takes longer: nothing else can interrupt a load that hangs, and until it is through Serve
    neither sends requests nor checks health. Serve starts another process in its place."""

    def end() -> None:
        log.critical("%s has not ended within %g s (%s): this process ends, to be started again", what, seconds, setting)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class RedisReplica:
    """An embedded Redis server as a deployment, so that Serve heals it like any other part."""

    def __init__(self, name: str, max_memory_bytes: int) -> None:
        from cache.redis.embedded import EmbeddedRedis
        from pipelines.cluster import running_serve

        if (num_nodes := running_serve.num_nodes()) > 1:
            log.warning(only_its_node("cache.redis.url, cache.kv.redis.url", num_nodes))
        self._server = EmbeddedRedis(max_memory_bytes=max_memory_bytes, directory=embedded_directory(name))
        self._pinging = DaemonThreads("asking Redis whether it lives", max_threads=4)

    async def check_health(self) -> None:
        await self._pinging.run(self._server.ping)

    def __del__(self) -> None:
        self._server.close()


def _pool(deployment: str) -> str:
    """As callers call it."""
    try:
        from ray import serve

        return pool_key(str(serve.get_replica_context().app_name), deployment)
    except Exception:  # not inside Serve
        return deployment


def replica_identity() -> str:
    try:
        from ray import serve

        return str(serve.get_replica_context().replica_tag)
    except Exception:  # not inside Serve
        return "local"
