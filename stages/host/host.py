"""Any number of named stages in one process: in a test, in a fused replica, in one Ray replica.

The asynchronous face of the engines: a call or a stream in, a reply or events out. Decides nothing that runs: what a stage
remembers is in `stages/host/remembering.py`, what runs when in `stages/engine/scheduler.py`. Knows no HTTP and no cluster.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any, TypeGuard, TypeVar

from cache.tier import TierStats
from cache.tiered import TieredCache
from stages.contract.errors import Cancelled, ConfigurationError, TriptychError, Unavailable
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.stage import Arrays, Item, IterativeStage, OneShotStage, Reply, StageMetrics, StageReceipt, StreamEnd
from stages.device.cores import CoreTable
from stages.engine.delivery import LoopDelivery
from stages.engine.engine import Engine
from stages.engine.health import MAX_STEP_S
from stages.engine.iterative_engine import IterativeEngine
from stages.engine.one_shot_engine import OneShotEngine
from stages.engine.scheduler import Load
from stages.host.remembering import RememberingStage, at_deadline, is_far

S = TypeVar("S")
BROKEN_CLOSE_S = 2.0


class _Feed:
    """A `Receiver` for one stream: collects what has come since it was last asked."""

    def __init__(self) -> None:
        self._events: list[object] = []
        self._error: TriptychError | None = None
        self._news, self._ended = asyncio.Event(), asyncio.Event()

    def events(self, events: Sequence[object]) -> None:
        self._events.extend(events)
        self._news.set()

    def done(self, value: Arrays, receipt: StageReceipt) -> None:
        self.events([StreamEnd(receipt)])
        self._ended.set()

    def failed(self, error: TriptychError) -> None:
        self._error = error
        self._news.set()
        self._ended.set()

    async def take(self, within_s: float) -> Sequence[object]:
        """At least one event, with all that come in the next `within_s` or until the end. Raises how the row failed, after its
        last event."""
        await self._news.wait()
        if within_s > 0 and not self._ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(None if math.isinf(within_s) else within_s):
                    await self._ended.wait()
        if not self._events and self._error is not None:
            raise self._error
        events, self._events = self._events, []
        if self._error is None:
            self._news.clear()
        return events


class StageHost:
    """`add` the stages, then `call` and `stream` on one event loop, then `close`. The host closes its cache.

    With a core table, its stages on the CPU compute with `torch_threads` each, with fewer while others at the table compute.
    """

    def __init__(
        self,
        *,
        cache: TieredCache | None = None,
        replica: str = "local",
        cores: CoreTable | None = None,
        torch_threads: int = 1,
    ) -> None:
        self._cache = cache if cache is not None else TieredCache()
        self._known_stats: Mapping[str, TierStats] = {}
        self._asking: asyncio.Task[None] | None = None
        self._replica, self._cores, self._torch_threads = replica, cores, torch_threads
        self._delivery = LoopDelivery()
        self._one_shot: dict[str, RememberingStage] = {}
        self._iterative: dict[str, IterativeEngine[Any, Any]] = {}
        self._cancels: dict[str, list[Callable[[], None]]] = {}
        self._closed = False

    def add(
        self,
        name: str,
        stage: OneShotStage[Any, Any] | IterativeStage[Any, Any],
        *,
        batch: BatchLimits = BatchLimits(),
        queue: QueueLimits = QueueLimits(),
        dtype: str = "float32",
        max_step_s: float = MAX_STEP_S,
    ) -> None:
        """Starts the stage's own thread. `dtype` is what the stage computes in: its results are remembered under it. Raises
        `ConfigurationError` for a name that is taken."""
        if name in self._engines():
            raise ConfigurationError(f"stage {name!r} is hosted here already")
        if not (_is_iterative(stage) or _is_one_shot(stage)):
            raise ConfigurationError(f"stage {name!r}: {type(stage).__name__} has neither run nor step")
        table = self._cores if stage.device == "cpu" else None
        cores = table.seat(self._torch_threads) if table is not None else None
        if _is_iterative(stage):
            self._iterative[name] = IterativeEngine(
                stage,
                name=name,
                replica=self._replica,
                dtype=dtype,
                batch=batch,
                queue=queue,
                deliver=self._delivery,
                cores=cores,
                max_step_s=max_step_s,
            )
        elif _is_one_shot(stage):
            engine = OneShotEngine(
                stage,
                name=name,
                replica=self._replica,
                dtype=dtype,
                batch=batch,
                queue=queue,
                deliver=self._delivery,
                cores=cores,
                max_step_s=max_step_s,
            )
            self._one_shot[name] = RememberingStage(engine, self._cache)

    def limit_queue(self, stage: str, limits: QueueLimits) -> None:
        """Judges what comes to the stage from now on by these bounds. On any thread. Raises `ConfigurationError` for a stage that is not
        hosted here."""
        if stage not in self._engines():
            raise ConfigurationError(f"stage {stage!r} is not hosted here (hosted: {', '.join(self._engines()) or 'none'})")
        self._engines()[stage].limit_queue(limits)

    async def call(self, stage: str, item: Item[Any]) -> Reply:
        """Runs a one-shot stage, or finds its result. Cancelling the task withdraws it. Raises any `TriptychError`."""
        hosted = self._open(stage, self._one_shot)
        waiter: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def cancel() -> None:
            if not waiter.done():
                waiter.set_exception(Cancelled(f"the request to stage {stage} was cancelled"))

        with self._cancellable(item.id, cancel):
            return await hosted.call(item, waiter)

    async def stream(self, stage: str, item: Item[Any]) -> AsyncGenerator[Sequence[object], None]:
        """Runs an iterative stage: lists of its events, each with all that came since the last, at the item's pace. The last
        event is `StreamEnd`.

        Closing the iterator, or cancelling the task, frees the row before the stage's next step. Raises any `TriptychError`,
        after the events that came before it.
        """
        engine = self._open(stage, self._iterative)
        feed = _Feed()
        handle = engine.submit(item, feed)
        call_off = at_deadline(item, handle.expire)
        now, due = asyncio.get_running_loop().time, item.pace_s if math.isinf(item.pace_s) else 0.0
        try:
            with self._cancellable(item.id, handle.cancel):
                while True:
                    events = await feed.take(due - now())
                    due = now() + item.pace_s
                    yield events
                    if isinstance(events[-1], StreamEnd):
                        return
        finally:
            call_off()
            handle.cancel()

    def cancel(self, item_id: str) -> bool:
        """Everything under this id ends with `Cancelled`. False: there was nothing."""
        cancels = list(self._cancels.get(item_id, ()))
        for cancel in cancels:
            cancel()
        return bool(cancels)

    def metrics(self) -> list[StageMetrics]:
        """Counters of every stage. What only the cache as a whole knows is told with the first, so that sums are right.

        To be called on the event loop.
        """
        shared = self._shared_cache_counters()
        metrics = []
        for name, engine in self._engines().items():
            cached = asdict(self._one_shot[name].counters) if name in self._one_shot else {}
            counters = {**engine.metrics(), **cached, **shared}
            shared = dict.fromkeys(shared, 0.0)
            metrics.append(StageMetrics(name, self._replica, engine.place.device, engine.place.dtype, counters))
        return metrics

    def activity(self) -> object:
        """Another one whenever a stage has done anything. Asks no far tier."""
        return [
            (engine.metrics(), asdict(self._one_shot[name].counters) if name in self._one_shot else None)
            for name, engine in self._engines().items()
        ]

    def load(self) -> Mapping[str, Load]:
        """What every stage has in hand, by its name."""
        return {name: engine.load() for name, engine in self._engines().items()}

    def check(self) -> None:
        """Raises `Unavailable` where a stage's device is broken, its batch doesn't end, or its thread is gone. On any thread."""
        for engine in self._engines().values():
            engine.check()

    async def settled(self) -> None:
        """Returns once nothing is being computed or remembered any more."""
        for hosted in self._one_shot.values():
            await hosted.settled()

    async def close(self) -> None:
        """Everything unfinished ends with `Unavailable`; returns when every thread has ended, but waits no longer than
        `BROKEN_CLOSE_S` for one whose device is broken: it may never end. Idempotent."""
        self._closed = True
        self._delivery.bind(asyncio.get_running_loop())
        await asyncio.gather(
            *(
                asyncio.to_thread(engine.close, BROKEN_CLOSE_S if engine.is_broken else None)
                for engine in self._engines().values()
            )
        )
        await self.settled()
        if self._asking is not None:
            await self._asking
        await asyncio.to_thread(self._cache.close)

    def _engines(self) -> dict[str, Engine[Any]]:
        return {**{name: hosted.engine for name, hosted in self._one_shot.items()}, **self._iterative}

    def _open(self, stage: str, hosted: Mapping[str, S]) -> S:
        if self._closed:
            raise Unavailable(f"stage {stage} is shutting down; try again", retry_after_s=1.0)
        if stage not in hosted:
            fitting = ", ".join(hosted) or "none"
            raise ConfigurationError(f"stage {stage!r} is not hosted here, or is of the other kind (of this kind: {fitting})")
        self._delivery.bind(asyncio.get_running_loop())
        return hosted[stage]

    @contextmanager
    def _cancellable(self, item_id: str, cancel: Callable[[], None]) -> Iterator[None]:
        """Items may share an id (the pictures of one request): they are cancelled together."""
        cancels = self._cancels.setdefault(item_id, [])
        cancels.append(cancel)
        try:
            yield
        finally:
            cancels.remove(cancel)
            if not cancels:
                self._cancels.pop(item_id, None)

    def _cache_stats(self) -> Mapping[str, TierStats]:
        """Asking a far tier is no work for the event loop: it is asked aside, and its last answer is told."""
        if not is_far(self._cache):
            return self._cache.stats()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_cache())
        return self._known_stats

    async def _ask_cache(self) -> None:
        self._known_stats = await asyncio.to_thread(self._cache.stats)

    def _shared_cache_counters(self) -> dict[str, float]:
        stats = self._cache_stats()
        memory = stats.get("memory")
        return {
            "cache_evictions_total": float(memory.evictions if memory else 0),
            "cache_errors_total": float(sum(tier.errors + tier.corrupt for tier in stats.values())),
        }


def _is_iterative(stage: object) -> TypeGuard[IterativeStage[Any, Any]]:
    return callable(getattr(stage, "step", None))


def _is_one_shot(stage: object) -> TypeGuard[OneShotStage[Any, Any]]:
    return callable(getattr(stage, "run", None))
