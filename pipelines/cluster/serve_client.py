"""Stages behind Ray Serve handles: finds the deployment, waits no longer than the request, and survives the end of a replica.

Work is pure (a name says what a result is made of), so a one-shot call whose replica died, or whose device broke, is simply made
again elsewhere, and a stream too, where nothing was shown yet or the caller can bear a new start. That is done once: the request itself
may be what ends replicas, and after `MAX_LOST` of them it fails with `ReplicaLost`. All pieces of a request count together. Knows no HTTP
and no model.

What ended for another reason costs a pause and no attempt, as far as that can be told:
- a replica that dies before it has accepted a request: Serve's router sends that to another, and nobody here hears of it;
- one that only refuses (it is broken, or closing, and Serve has yet to replace it), also where its device broke while the request
  waited there (`stages/engine/device_faults.py`);
- one that went with its whole node.
A replica that is stopped in order ends the requests in its hand first, so who is killed by Serve itself did not end in time: that
counts. Where a stage behind the one that is called is unavailable, its replica has tried.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import ray.exceptions
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from pipelines.cluster.object_store import ObjectStore
from stages.contract.errors import (
    Broken,
    Cancelled,
    ConfigurationError,
    DeadlineExceeded,
    InputUnavailable,
    QueueFull,
    ReplicaLost,
    StageFailed,
    TriptychError,
    Unavailable,
)
from stages.contract.item import InputReceipts, Item, Reply
from stages.host.deadlines import remaining_s, too_late
from stages.host.packed_item import packed

T = TypeVar("T")

MAX_LOST = 2
MAX_TRIES = 300  # of a request without a deadline
_CANCELLED = (Cancelled, RequestCancelledError, ray.exceptions.TaskCancelledError)
_NODE_DIED = (ray.exceptions.NodeDiedError, ray.exceptions.OwnerDiedError)
_REPLICA_DIED = (ray.exceptions.RayActorError, *_NODE_DIED)


class ServeStageClient:
    """`handles`: deployment name -> handle; `deployments`: stage name -> the deployments that host it (its pools). Items of streams share
    their large arrays: several choices about an image take one copy of its bytes along."""

    def __init__(
        self,
        handles: Mapping[str, DeploymentHandle],
        deployments: Mapping[str, Sequence[str]],
        store: ObjectStore | None = None,
    ) -> None:
        self._handles, self._deployments = handles, deployments
        self._store = store if store is not None else ObjectStore()
        self._pace = {name: _Pace() for name in handles}

    async def call(self, stage: str, item: Item[Any], *, lost: set[str] | None = None) -> Reply[Any]:
        deployment = self._hosting(stage)
        handle = self._handles[deployment].options(method_name="call")
        attempts = _Attempts(lost)
        while True:
            response = handle.remote(stage, item)
            try:
                reply: Reply[Any] = await _in_time(response, item, stage)
                self._pace[deployment].tick()
                return reply
            except asyncio.CancelledError:
                _call_off(response)
                raise
            except Exception as error:
                _call_off(response)  # where its time is up, it goes on
                failure = self._translated(error, stage, item)
                if not attempts.another(error, failure):
                    raise attempts.last(stage, failure) from None
            await attempts.pause(stage, item)

    async def stream(
        self, stage: str, item: Item[Any], *, restartable: bool = False, lost: set[str] | None = None
    ) -> AsyncGenerator[Sequence[object], None]:
        deployment = self._hosting(stage)
        handle = self._handles[deployment].options(method_name="stream", stream=True)
        sent, arrays = packed(item)
        beside = [self._store.reference(array) for array in arrays]
        attempts = _Attempts(lost)
        while True:
            response, shown = handle.remote(stage, sent, *beside), False
            try:
                async for events in _within(response, item, stage):
                    shown = shown or not all(isinstance(event, InputReceipts) for event in events)
                    yield events
                self._pace[deployment].tick()
                return
            except Exception as error:
                failure = self._translated(error, stage, item)
                another = attempts.another(error, failure)
                if shown and not restartable:
                    raise failure from None
                if not another:
                    raise attempts.last(stage, failure) from None
            finally:
                _call_off(response)
            await attempts.pause(stage, item)

    def _hosting(self, stage: str) -> str:
        """Its first pool."""
        hosting = [deployment for deployment in self._deployments.get(stage, ()) if deployment in self._handles]
        if not hosting:
            known = ", ".join(self._deployments) or "none"
            raise ConfigurationError(f"stage {stage!r} can't be called from here (what can: {known})")
        return hosting[0]

    def _translated(self, error: Exception, stage: str, item: Item[Any]) -> TriptychError:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        if isinstance(cause, _CANCELLED) and time.time() >= item.deadline:
            return _too_late(stage)  # the deadline is what cancelled it
        if isinstance(cause, TriptychError):
            return cause
        if isinstance(error, BackPressureError):
            deployment = self._hosting(stage)
            return QueueFull(
                f"{stage}: every replica is busy and the queue before them is full "
                f"(deployments.{deployment}.max_queued_requests); try again",
                retry_after_s=self._pace[deployment].retry_after_s(),
            )
        if isinstance(error, _CANCELLED):
            return Cancelled(f"{stage}: cancelled")
        if isinstance(error, (*_REPLICA_DIED, DeploymentUnavailableError, RayServeException)):
            return _gone(stage)
        return StageFailed(f"{stage} failed", detail=f"{type(cause).__name__}: {cause}")


class _Attempts:
    """Whether a request is tried once more, and after which pause. `lost`: shared by all pieces of a request."""

    def __init__(self, lost: set[str] | None) -> None:
        self._lost = lost if lost is not None else set()
        self._num_tries = 0

    def another(self, error: Exception, failure: TriptychError) -> bool:
        """Notes which replica was lost, if one was."""
        self._num_tries += 1
        if isinstance(failure, Broken):
            self._lost.add(str(failure))  # it names the replica
        elif isinstance(error, ray.exceptions.RayActorError) and not _went_with_its_node(error):
            self._lost.add(error.actor_id or f"one that nobody names, in try {self._num_tries}")
        elif not self._had_no_part(error, failure):
            return False
        return len(self._lost) < MAX_LOST and self._num_tries <= MAX_TRIES

    def _had_no_part(self, error: Exception, failure: TriptychError) -> bool:
        if isinstance(error, _NODE_DIED) or _went_with_its_node(error):
            return True
        refused = isinstance(error, ray.exceptions.RayTaskError) and isinstance(failure, Unavailable)
        return refused and not isinstance(failure, InputUnavailable)

    def last(self, stage: str, failure: TriptychError) -> TriptychError:
        """What is told in the end. Where a replica was lost and nobody could try again, trying later might cost the next one."""
        if self._lost and isinstance(failure, Unavailable):
            return ReplicaLost(f"{stage}: {len(self._lost)} replicas ended under the request", detail=str(failure))
        return failure

    async def pause(self, stage: str, item: Item[Any]) -> None:
        """Up to a second: until Serve notices, the same replica may be chosen again. Raises `DeadlineExceeded`."""
        pause_s, left_s = min(1.0, 0.05 * 2**self._num_tries), remaining_s(item)
        await asyncio.sleep(pause_s if left_s is None else min(pause_s, left_s))
        if remaining_s(item) == 0:
            raise _too_late(stage)


def _went_with_its_node(error: Exception) -> bool:
    """Ray says so only in words, unless the node was preempted."""
    return isinstance(error, ray.exceptions.RayActorError) and (error.preempted or "node has died" in str(error))


class _Pace:
    """How fast a deployment answers, to say when to come back. Mean seconds between answers, over the last few."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._mean_s = 1.0

    def tick(self) -> None:
        now = time.monotonic()
        self._mean_s += 0.2 * (min(now - self._last, 10.0) - self._mean_s)
        self._last = now

    def retry_after_s(self) -> float:
        return max(1.0, min(60.0, 4 * self._mean_s))


def _call_off(response: Any) -> None:
    """A call that failed on its way raises that again here, over what was made of it."""
    with suppress(Exception):
        response.cancel()


async def _within(response: Any, item: Item[Any], stage: str) -> AsyncGenerator[Sequence[object], None]:
    """The stream's values, up to the item's deadline."""
    iterator = aiter(response)
    while True:
        try:
            events = await _in_time(anext(iterator), item, stage)
        except StopAsyncIteration:
            return
        yield events


async def _in_time(awaited: Awaitable[T], item: Item[Any], stage: str) -> T:
    """Raises `DeadlineExceeded` at the item's deadline. A `TimeoutError` of the call's own is no such thing."""
    timer = asyncio.timeout(remaining_s(item))
    try:
        async with timer:
            return await awaited
    except TimeoutError:
        if not timer.expired():
            raise
        raise _too_late(stage) from None


def _too_late(stage: str) -> DeadlineExceeded:
    return too_late(f"it was with {stage}")


def _gone(stage: str) -> Unavailable:
    return Unavailable(f"{stage}: its replica died and no other took over in time; try again", retry_after_s=5.0)
