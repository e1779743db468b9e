"""Any number of named stages in one process: in a test, in a fused replica, in one Ray replica.

The asynchronous face of the engines: a call or a stream in, a reply or events out. Decides nothing that runs: how a result is come
by is in `stages/host/resolving.py`, what runs when in `stages/engine/`. Knows no HTTP and no cluster.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeGuard

from cache.tiered import TieredCache
from stages.checkpoints.checkpoint import Contents
from stages.concurrency.thread_pool import DaemonThreads
from stages.concurrency.together import ended
from stages.contract.engine import Engine, Load
from stages.contract.errors import ConfigurationError, TriptychError, Unavailable
from stages.contract.item import Item, Reply, StageMetrics, StreamEnd
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.news import StageNews
from stages.contract.recipe import Recipe
from stages.contract.stage import IterativeStage, OneShotStage
from stages.contract.trace import NO_TRACER, Tracer
from stages.device.cores import SharedCores, available_cores
from stages.device.device_memory import memory_used
from stages.device.shared_device import DeviceShare, SharedDevice
from stages.engine.base import EngineOptions
from stages.engine.delivery import LoopDelivery
from stages.engine.health import MAX_STEP_S
from stages.engine.iterative import IterativeEngine
from stages.engine.one_shot import OneShotEngine
from stages.engine.scheduling.learned_speed import MeasuredSteps
from stages.host.at_hand import AtHand
from stages.host.deadlines import at_deadline
from stages.host.event_feed import EventFeed
from stages.host.makers import ElsewhereMaker, EngineMaker, Maker, StageCaller
from stages.host.pages.finding import StagePages
from stages.host.remembered.cache_stats import CacheStats, counters_of
from stages.host.remembered.cache_threads import CacheThreads
from stages.host.remembered.origin import Origin
from stages.host.resolving import Resolver
from stages.host.submission import HostedEngine, Submission
from stages.host.telling import Telling
from stages.host.tracing import resolving, told_by, traced

BROKEN_CLOSE_S = 2.0
PIECE_S, LONGEST_PACE_S = 0.0015, 0.2
"""A host leaves each of its streams so long for every one that it hands on, and no longer than that: a piece takes a millisecond or two of
processors on its way (the stage's replica, the HTTP surface, the proxy), whatever it holds, and steps need the first of these, too."""

Stage = OneShotStage[Any, Any, Any] | IterativeStage[Any, Any, Any]


class StageHost:
    """`add` the stages, then `call` and `stream` on one event loop, then `close`. The host closes its caches: `cache` remembers results,
    `pages` where rows may begin (None: nowhere).

    What its stages need of others is resolved here, too: by its own stages where it has them, or else through `elsewhere`.
    With shared cores, its stages on the CPU compute with `torch_threads` each, with fewer while others compute.
    """

    def __init__(
        self,
        *,
        cache: TieredCache | None = None,
        pages: TieredCache | None = None,
        replica: str = "local",
        cores: SharedCores | None = None,
        torch_threads: int = 1,
        elsewhere: StageCaller | None = None,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._tracer = tracer
        self._cache = cache if cache is not None else TieredCache()
        self._cache_threads = CacheThreads(self._cache)
        self._page_threads = CacheThreads(pages, "pages", turn_within_s=None) if pages is not None else None
        self._stats = {"cache": CacheStats(self._cache, self._cache_threads)}
        if pages is not None and self._page_threads is not None:
            self._stats["pages"] = CacheStats(pages, self._page_threads)
        self._replica, self._cores, self._torch_threads = replica, cores, torch_threads
        self._delivery = LoopDelivery()
        self._num_streams = 0
        self._hosted: dict[str, HostedEngine] = {}
        self._telling: dict[str, Telling] = {}
        self._makers: dict[str, Maker] = {}
        self._contents: dict[str, Contents] = {}
        self._elsewhere = elsewhere
        self._resolver = Resolver(self._cache, self._cache_threads, replica)
        self._at_hand = AtHand(self._makers, self._cache, pages)
        self._devices: dict[str, SharedDevice] = {}
        self._shares: dict[str, DeviceShare] = {}
        self._closed = False

    def add(
        self,
        name: str,
        stage: Stage,
        *,
        batch: BatchLimits = BatchLimits(),
        queue: QueueLimits = QueueLimits(),
        dtype: str = "float32",
        max_step_s: float = MAX_STEP_S,
        contents: Contents | None = None,
        measured: MeasuredSteps | None = None,
    ) -> None:
        """Starts the stage's own thread. `dtype` is what the stage computes in and `contents` what with: its results are remembered
        under both, and items made for other contents are refused (None: nobody knows them). Of its items, as many may wait for inputs
        as may wait in its queue. `measured`: how fast it is (None: that is learned). Raises `ConfigurationError` for a name that is
        taken."""
        self._refuse_if_taken(name)
        if not (_is_iterative(stage) or _is_one_shot(stage)):
            raise ConfigurationError(f"stage {name!r}: {type(stage).__name__} has neither run nor step")
        shared = self._cores if stage.device == "cpu" else None
        share = self._shares[name] = self._device(stage.device).share()
        options = EngineOptions(
            replica=self._replica,
            dtype=dtype,
            deliver=self._delivery,
            cores=shared.lease(self._torch_threads) if shared is not None else None,
            max_step_s=max_step_s,
            measured=measured,
            share=share,
        )
        engine: Engine[Any]
        if _is_iterative(stage):
            engine = IterativeEngine(stage, name=name, batch=batch, queue=queue, **options)
        elif _is_one_shot(stage):
            engine = OneShotEngine(stage, name=name, batch=batch, queue=queue, **options)
        self.add_engine(engine, max_waiting=queue.max_items, contents=contents)

    def _device(self, name: str) -> SharedDevice:
        """On a CPU as many stages compute at their full speed as have cores of their own."""
        if name not in self._devices:
            num_cores = self._cores.num_cores if self._cores is not None else available_cores()
            self._devices[name] = SharedDevice(num_cores / self._torch_threads if name == "cpu" else 1.0)
        return self._devices[name]

    def add_engine(
        self, engine: Engine[Any], *, max_waiting: int = QueueLimits().max_items, contents: Contents | None = None
    ) -> None:
        """An engine that is there already, under its identity's name. `max_waiting`: of its items, how many may wait for inputs.
        Its receivers may be called on any thread. Raises `ConfigurationError` for a name that is taken."""
        name = engine.identity.stage
        self._refuse_if_taken(name)
        origin = Origin.of(engine.identity, contents.whole if contents is not None else "")
        hosted = HostedEngine(engine, self._resolve, max_waiting, self._pages_of(engine, origin))
        self._hosted[name] = hosted
        self._telling[name] = Telling(engine, self._replica, self._at_hand)
        if hosted.pages is not None:
            hosted.pages.tell(self._telling[name].kept)
        if contents is not None:
            self._contents[name] = contents
        if engine.result_type is not None:
            self._makers[name] = EngineMaker(hosted, engine.result_type, origin)

    def _pages_of(self, engine: Engine[Any], origin: Origin) -> StagePages | None:
        if engine.paging is None or self._page_threads is None:
            return None
        return StagePages(engine.identity.stage, engine.paging, self._page_threads, origin.key, self._delivery)

    def limit_queue(self, stage: str, limits: QueueLimits) -> None:
        """Judges what comes to the stage from now on by these bounds, also what would wait for inputs. On any thread. Raises
        `ConfigurationError` for a stage that is not hosted here."""
        if stage not in self._hosted:
            raise ConfigurationError(f"stage {stage!r} is not hosted here (hosted: {', '.join(self._hosted) or 'none'})")
        self._hosted[stage].limit_queue(limits)

    async def call(self, stage: str, item: Item[Any]) -> Reply[Any]:
        """Runs a one-shot stage, or finds its result. Cancelling the task withdraws it. Raises any `TriptychError`."""
        one_shot = [name for name in self._hosted if name in self._makers]
        self._refuse_if_not_open(stage, one_shot)
        self._refuse_if_made_for_others(stage, item)
        telling = self._telling[stage]
        try:
            with traced(self._tracer, stage, item) as (item, span):
                reply = await self._resolver.result(item, self._makers[stage])
                span.set(told_by(reply.receipt))
        except TriptychError as error:
            telling.ended(item, time.monotonic(), error)
            raise
        telling.ended(item, time.monotonic())
        return reply

    async def stream(self, stage: str, item: Item[Any]) -> AsyncGenerator[Sequence[object], None]:
        """Runs an iterative stage: lists of its events, each with all that came since the last, at the item's pace. The last
        event is `StreamEnd`.

        Closing the iterator, or cancelling the task, frees the row before the stage's next step. Raises any `TriptychError`,
        after the events that came before it.
        """
        self._refuse_if_not_open(stage, [name for name in self._hosted if name not in self._makers])
        self._refuse_if_made_for_others(stage, item)
        with traced(self._tracer, stage, item) as (item, span):
            async with aclosing(self._streamed(stage, item)) as batches:
                async for events in batches:
                    if isinstance(end := events[-1], StreamEnd):
                        span.set(told_by(end.receipt))
                    yield events

    async def _streamed(self, stage: str, item: Item[Any]) -> AsyncGenerator[Sequence[object], None]:
        feed = EventFeed()
        submission, telling = Submission(self._hosted[stage], item, feed), self._telling[stage]
        call_off = at_deadline(item, submission.expire)
        now, is_whole = asyncio.get_running_loop().time, math.isinf(item.pace_s)
        pace_s = item.kept_s if is_whole else item.pace_s
        due, is_paced, has_begun = now() + pace_s if is_whole else 0.0, 0.0 < item.pace_s < LONGEST_PACE_S, False
        try:
            await self._begin(submission, feed)
            while True:
                events = await feed.take(due - now())
                if not has_begun:
                    has_begun = True
                    self._num_streams += is_paced
                    telling.began(item, time.monotonic())
                due = now() + max(pace_s, self._least_pace_s() if is_paced else 0.0)
                if isinstance(events[-1], StreamEnd):
                    telling.ended(item, time.monotonic())
                yield events
                if isinstance(events[-1], StreamEnd):
                    return
        except TriptychError as error:
            telling.ended(item, time.monotonic(), error)
            raise
        finally:
            self._num_streams -= has_begun and is_paced
            call_off()
            submission.end()

    def _least_pace_s(self) -> float:
        return min(LONGEST_PACE_S, self._num_streams * PIECE_S)

    async def _begin(self, submission: Submission, feed: EventFeed) -> None:
        """What was made for an item that is refused then is told before the refusal."""
        try:
            await submission.begin()
        except TriptychError as error:
            feed.failed(error)

    def metrics(self) -> list[StageMetrics]:
        """Counters of every stage. What only the cache as a whole knows is told with the first, so that sums are right. Of stages
        elsewhere, what this process remembered or joined of their results: they have not heard of it.

        To be called on the event loop.
        """
        shared = self._shared_cache_counters()
        metrics: list[StageMetrics] = []
        for name, hosted in self._hosted.items():
            identity, histograms = hosted.engine.identity, hosted.histograms()
            process = _of_process(identity.device) if not metrics else {}
            counters = {**hosted.metrics(), **self._cache_counters(name), **shared}
            shared = {}
            metrics.append(
                StageMetrics(
                    name, self._replica, identity.device, identity.dtype, counters, histograms=histograms, memory=process
                )
            )
        for name, maker in self._makers.items():
            if not maker.is_here and (origins := maker.origins()):
                latest = origins[0]
                counters = self._cache_counters(name)
                metrics.append(StageMetrics(name, self._replica, latest.device, latest.dtype, counters, is_hosted=False))
        return metrics

    def activity(self) -> object:
        """Another one whenever a stage has done anything. Asks no far tier."""
        counters = {name: counters.as_metrics() for name, counters in self._resolver.counters.items()}
        return [hosted.metrics() for hosted in self._hosted.values()], counters

    def load(self) -> Mapping[str, Load]:
        """What every stage has in hand, by its name; without what waits for inputs."""
        return {name: hosted.engine.load() for name, hosted in self._hosted.items()}

    def news(self) -> tuple[StageNews, ...]:
        """What every stage tells whoever routes to it. To be called on the event loop."""
        now = time.monotonic()
        return tuple(self._counted(telling.news(now), name) for name, telling in self._telling.items())

    def _counted(self, news: StageNews, name: str) -> StageNews:
        """With what came to the engine, and left it, and whether it has its device to itself."""
        hosted, share = self._hosted[name], self._shares.get(name)
        num_left = max(0, hosted.num_arrived - news.num_items)
        return replace(
            news,
            arrived=hosted.arrived,
            num_arrived=hosted.num_arrived,
            num_left=num_left,
            is_shared=share is not None and share.is_shared,
        )

    def residency(self) -> Mapping[str, Collection[str]]:
        """Names of the results that every stage holds in a form that spares it being given them, by the stage's name."""
        return {name: hosted.engine.residency() for name, hosted in self._hosted.items()}

    def check(self) -> None:
        """Raises `Unavailable` where a stage's device is broken, its batch doesn't end, or its thread is gone. On any thread. Every
        stage is asked: what is in the hands of one that doesn't come back is given up there."""
        broken: list[Unavailable] = []
        for hosted in self._hosted.values():
            try:
                hosted.engine.check()
            except Unavailable as error:
                broken.append(error)
        if broken:
            raise broken[0]

    async def settled(self) -> None:
        """Returns once nothing is being computed or remembered any more. What an engine exports while it is idle is not waited for."""
        await self._resolver.settled()
        for hosted in self._hosted.values():
            if hosted.pages is not None:
                await hosted.pages.settled()

    async def close(self) -> None:
        """Everything unfinished ends with `Unavailable`; returns when every thread has ended, but waits no longer than
        `BROKEN_CLOSE_S` for one whose device is broken: it may never end. Idempotent."""
        self._closed = True
        self._delivery.bind(asyncio.get_running_loop())
        engines = [hosted.engine for hosted in self._hosted.values()]
        closing = DaemonThreads("closing stages", max_threads=len(engines))
        how = await ended(closing.run(engine.close, BROKEN_CLOSE_S if engine.is_broken else None) for engine in engines)
        await self._resolver.close(Unavailable("the stages here are shutting down; try again", retry_after_s=1.0))
        for stats in self._stats.values():
            await stats.settled()
        for hosted in self._hosted.values():
            if hosted.pages is not None:
                await hosted.pages.close()
        await self._cache_threads.close()
        if self._page_threads is not None:
            await self._page_threads.close()
        for failure in how:
            if isinstance(failure, BaseException):
                raise failure

    async def _resolve(self, recipe: Recipe[Any], wanted_by: Item[Any]) -> Reply[Any]:
        """A result that an item needs, as urgent and as long as the item is."""
        item = Item(
            f"{wanted_by.id}:{recipe.stage.rpartition('.')[2]}",
            recipe.payload,
            name=recipe.name,
            priority=wanted_by.priority,
            deadline=wanted_by.deadline,
            tenant=wanted_by.tenant,
            made_for=wanted_by.made_for,
            request=wanted_by.request,
            salt=wanted_by.salt,
            work=recipe.work,
            trace=wanted_by.trace,
        )
        self._refuse_if_made_for_others(recipe.stage, item)
        with resolving(self._tracer, recipe.stage, item) as told:
            reply = await self._resolver.result(item, self._maker(recipe.stage))
            told(reply.receipt)
        return reply

    def _maker(self, stage: str) -> Maker:
        if stage in self._makers:
            return self._makers[stage]
        if stage in self._hosted:
            raise ConfigurationError(f"stage {stage!r} makes no results that others could need: its answer is a stream")
        if self._elsewhere is None:
            raise ConfigurationError(f"stage {stage!r} is needed here, and neither hosted here nor known elsewhere")
        maker = self._makers[stage] = ElsewhereMaker(stage, self._elsewhere)
        return maker

    def _refuse_if_taken(self, name: str) -> None:
        if name in self._hosted:
            raise ConfigurationError(f"stage {name!r} is hosted here already")

    def _refuse_if_not_open(self, stage: str, fitting: Sequence[str]) -> None:
        if self._closed:
            raise Unavailable(f"stage {stage} is shutting down; try again", retry_after_s=1.0)
        if stage not in fitting:
            names = ", ".join(fitting) or "none"
            raise ConfigurationError(f"stage {stage!r} is not hosted here, or is of the other kind (of this kind: {names})")
        self._delivery.bind(asyncio.get_running_loop())

    def _refuse_if_made_for_others(self, stage: str, item: Item[Any]) -> None:
        """Its tokens or the names of its results are of another model than is loaded here."""
        contents, wanted = self._contents.get(stage), item.made_for.get(stage)
        if contents is not None and wanted is not None and wanted not in contents:
            raise ConfigurationError(
                f"{stage} was loaded from other files here (replica {self._replica}) than this request was made for: its source differs "
                "between machines, or has changed; make it the same everywhere, and deploy again"
            )

    def _cache_counters(self, stage: str) -> dict[str, float]:
        return self._resolver.counters_of(stage).as_metrics() if stage in self._makers else {}

    def _shared_cache_counters(self) -> dict[str, float]:
        told: dict[str, float] = {}
        for name, stats in self._stats.items():
            told |= counters_of(name, stats.latest())
        return told


def _is_iterative(stage: object) -> TypeGuard[IterativeStage[Any, Any, Any]]:
    return callable(getattr(stage, "step", None))


def _is_one_shot(stage: object) -> TypeGuard[OneShotStage[Any, Any, Any]]:
    return callable(getattr(stage, "run", None))


def _of_process(device: str) -> dict[str, float]:
    return {**memory_used(device), "event_loop_tasks": float(len(asyncio.all_tasks()))}
