"""One deployment of Ray Serve, without Ray: as much of a handle as `ServeStageClient` uses, over stage hosts in this process.

What crosses is pickled, as between processes. A replica answers, refuses, dies and is replaced as the test says; what a caller is
raised are Ray's own exceptions.
"""

import asyncio
import os
import pickle
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from contextlib import aclosing
from contextvars import Context
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import ray.exceptions
from numpy.typing import NDArray
from ray.serve.exceptions import BackPressureError, RequestCancelledError

from pipelines.cluster.pieces import pieces
from pipelines.routing.route import Route
from stages.contract.item import Item, Reply, StreamEnd
from stages.contract.message import readable
from stages.host.host import StageHost
from stages.host.packed_item import PackedItem, unpacked

T = TypeVar("T")


class Replica:
    """Calls as `pipelines/cluster/replica.py` takes them."""

    def __init__(self, host: StageHost) -> None:
        self.host = host
        self.ongoing: set[asyncio.Task[Any]] = set()
        self.is_dead = False

    async def call(self, stage: str, item: Item[Any]) -> Reply[Any]:
        return replace(await self.host.call(stage, readable(item)), news=self.host.news())

    async def answer(self, stage: str, item: PackedItem) -> AsyncIterator[bytes]:
        for piece in pieces(await self.call(stage, unpacked(item, ()))):
            yield piece

    async def stream(
        self, stage: str, item: Item[Any] | PackedItem, *beside: NDArray[Any]
    ) -> AsyncIterator[Sequence[object] | bytes]:
        in_pieces = isinstance(item, PackedItem) and item.in_pieces
        async with aclosing(self.host.stream(stage, unpacked(item, beside))) as batches:
            async for events in batches:
                end = events[-1]
                told = [*events[:-1], replace(end, news=self.host.news())] if isinstance(end, StreamEnd) else events
                for piece in pieces(told) if in_pieces else [told]:
                    yield piece


class FakeDeployment:
    """Has one replica at a time. `num_requests` counts what has reached one; `returned_bytes` what has come back."""

    def __init__(self, make: Callable[[], StageHost], *, max_ongoing: int = 64, max_queued: int = 64) -> None:
        self._make, self._max_queued = make, max_queued
        self.replica = Replica(make())
        self._places = asyncio.Semaphore(max_ongoing)
        self.num_queued = self.num_requests = self.num_cancelled = self.returned_bytes = 0
        self._hosts = [self.replica.host]

    @property
    def handle(self) -> "FakeHandle":
        return FakeHandle(self)

    def kill(self) -> None:
        """Whoever was with the replica is told that it died; from now on another one answers."""
        dead, self.replica = self.replica, Replica(self._make())
        self._hosts.append(self.replica.host)
        dead.is_dead = True
        for task in dead.ongoing:
            task.cancel()

    async def close(self) -> None:
        await asyncio.gather(*(host.close() for host in self._hosts))

    async def run(self, work: Callable[[Replica], Coroutine[Any, Any, T]], to: object, *, by_grpc: bool = False) -> T:
        """In a place of a replica. What the stages raise is wrapped, as Ray wraps it, unless it comes by gRPC."""
        await self._find_place()
        if isinstance(to, Route):
            to.was_accepted()
        replica, task = self.replica, asyncio.current_task()
        assert task is not None
        replica.ongoing.add(task)
        self.num_requests += 1
        try:
            return await work(replica)
        except asyncio.CancelledError:
            if replica.is_dead:
                raise (
                    ray.exceptions.ActorUnavailableError("", os.urandom(16)) if by_grpc else ray.exceptions.RayActorError()
                ) from None
            self.num_cancelled += 1
            raise
        except Exception as error:
            crossed = pickle.loads(pickle.dumps(error))  # noqa: S301
            raise (crossed if by_grpc else ray.exceptions.RayTaskError("call", "traceback", crossed)) from None
        finally:
            replica.ongoing.discard(task)
            self._places.release()

    async def _find_place(self) -> None:
        if self._places.locked():
            if self.num_queued >= self._max_queued:
                raise BackPressureError(num_queued_requests=self.num_queued, max_queued_requests=self._max_queued)
            self.num_queued += 1
            try:
                await self._places.acquire()
            finally:
                self.num_queued -= 1
        else:
            await self._places.acquire()

    def crossed(self, value: T) -> T:
        data = pickle.dumps(value, protocol=5)
        self.returned_bytes += len(data)
        back: T = pickle.loads(data)  # noqa: S301
        return back


@dataclass(frozen=True)
class FakeHandle:
    deployment: FakeDeployment
    method_name: str = "call"
    stream: bool = False
    app_name: str = "app"
    by_grpc: bool = False

    def options(
        self, *, method_name: str = "", stream: bool | None = None, _by_reference: bool = True, **_: str
    ) -> "FakeHandle":
        stream = self.stream if stream is None else stream
        return replace(self, method_name=method_name or self.method_name, stream=stream, by_grpc=not _by_reference)

    def remote(self, stage: str, item: object, *beside: NDArray[Any], to: object = None) -> "Response | StreamResponse":
        """`beside`: arrays, or what a test's `ObjectStore` gives in their place and this process may share."""
        sent: Any = pickle.loads(pickle.dumps(item, protocol=5))  # noqa: S301
        if self.method_name == "answer":
            return StreamResponse(self.deployment, lambda replica: replica.answer(stage, sent), to, self.by_grpc)
        if self.stream:
            return StreamResponse(self.deployment, lambda replica: replica.stream(stage, sent, *beside), to, self.by_grpc)
        return Response(self.deployment, lambda replica: replica.call(stage, sent), to)


class Response:
    """Under way from the start, and until `cancel`, whoever waits for it."""

    def __init__(self, deployment: FakeDeployment, work: Callable[[Replica], Coroutine[Any, Any, Any]], to: object) -> None:
        self._deployment, self._is_cancelled = deployment, False
        self._task = asyncio.get_running_loop().create_task(deployment.run(work, to), context=Context())
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody need ask

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        try:
            await asyncio.wait([self._task])
        except asyncio.CancelledError:
            if self._is_cancelled:
                raise RequestCancelledError("") from None  # as Serve has it
            raise
        if self._task.cancelled():
            raise ray.exceptions.TaskCancelledError
        return self._deployment.crossed(self._task.result())

    def cancel(self) -> None:
        self._is_cancelled = True
        self._task.cancel()


class StreamResponse:
    """As `Response`, for what yields."""

    def __init__(
        self,
        deployment: FakeDeployment,
        work: Callable[[Replica], AsyncIterator[Sequence[object] | bytes]],
        to: object,
        by_grpc: bool,
    ) -> None:
        self._deployment = deployment
        self._batches: asyncio.Queue[Sequence[object] | bytes | None] = asyncio.Queue()

        async def pump(replica: Replica) -> None:
            async with aclosing(work(replica)) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    self._batches.put_nowait(batch)

        self._task = asyncio.get_running_loop().create_task(deployment.run(pump, to, by_grpc=by_grpc), context=Context())
        self._task.add_done_callback(lambda _: self._batches.put_nowait(None))

    def __aiter__(self) -> "StreamResponse":
        return self

    async def __anext__(self) -> Sequence[object] | bytes:
        batch = await self._batches.get()
        if batch is not None:
            return self._deployment.crossed(batch)
        self._batches.put_nowait(None)
        if self._task.cancelled():
            raise ray.exceptions.TaskCancelledError
        if error := self._task.exception():
            raise error
        raise StopAsyncIteration

    def cancel(self) -> None:
        self._task.cancel()
