"""Stages behind Ray Serve handles: finds the deployment, waits no longer than the request, and survives the end of a replica.

Work is pure (a name says what a result is made of), so a one-shot call whose replica died, or whose device broke, is simply made
again elsewhere, and a stream too, where nothing was shown yet or the caller can bear a new start. That is done `MAX_ATTEMPTS`
times: the request itself may be what ends replicas. A replica that only refuses (it is broken, or closing, and Serve has yet to
replace it) costs no attempt, but a pause. Where a stage behind that one is unavailable, its replica has tried. Knows no HTTP and no model.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any

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
    StageFailed,
    TriptychError,
    Unavailable,
)
from stages.contract.item import InputReceipts, Item, Reply
from stages.host.deadlines import remaining_s, too_late
from stages.host.packed_item import packed

MAX_ATTEMPTS = 3
MAX_TRIES = 300  # of a request without a deadline
_CANCELLED = (Cancelled, RequestCancelledError, ray.exceptions.TaskCancelledError)
_REPLICA_DIED = (ray.exceptions.RayActorError, ray.exceptions.NodeDiedError, ray.exceptions.OwnerDiedError)


class ServeStageClient:
    """`handles`: deployment name -> handle; `deployments`: stage name -> deployment name. Items of streams share their large
    arrays: several choices about a picture take one copy of its bytes along."""

    def __init__(
        self, handles: Mapping[str, DeploymentHandle], deployments: Mapping[str, str], store: ObjectStore | None = None
    ) -> None:
        self._handles, self._deployments = handles, deployments
        self._store = store if store is not None else ObjectStore()
        self._pace = {name: _Pace() for name in handles}

    async def call(self, stage: str, item: Item[Any]) -> Reply[Any]:
        deployment = self._hosting(stage)
        handle = self._handles[deployment].options(method_name="call")
        attempts = _Attempts()
        while True:
            response = handle.remote(stage, item)
            try:
                async with asyncio.timeout(remaining_s(item)):
                    reply: Reply[Any] = await response
                self._pace[deployment].tick()
                return reply
            except TimeoutError:
                _call_off(response)
                raise _too_late(stage) from None
            except asyncio.CancelledError:
                _call_off(response)
                raise
            except Exception as error:
                failure = self._translated(error, stage, item)
                if not attempts.another(error, failure):
                    raise failure from None
            await attempts.pause(stage, item)

    async def stream(
        self, stage: str, item: Item[Any], *, restartable: bool = False
    ) -> AsyncGenerator[Sequence[object], None]:
        deployment = self._hosting(stage)
        handle = self._handles[deployment].options(method_name="stream", stream=True)
        sent, arrays = packed(item)
        beside = [self._store.reference(array) for array in arrays]
        attempts = _Attempts()
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
                if (shown and not restartable) or not attempts.another(error, failure):
                    raise failure from None
            finally:
                _call_off(response)
            await attempts.pause(stage, item)

    def _hosting(self, stage: str) -> str:
        deployment = self._deployments.get(stage)
        if deployment not in self._handles:
            known = ", ".join(self._deployments) or "none"
            raise ConfigurationError(f"stage {stage!r} can't be called from here (what can: {known})")
        return str(deployment)

    def _translated(self, error: Exception, stage: str, item: Item[Any]) -> TriptychError:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        if isinstance(cause, _CANCELLED) and time.time() >= item.deadline:
            return _too_late(stage)  # the deadline is what cancelled it
        if isinstance(cause, TriptychError):
            return cause
        if isinstance(error, BackPressureError):
            deployment = self._deployments[stage]
            return QueueFull(
                f"{stage}: every replica is busy and the queue before them is full "
                f"(deployments.{deployment}.max_queued_requests); try again",
                retry_after_s=self._pace[deployment].retry_after_s(),
            )
        if isinstance(error, _CANCELLED):
            return Cancelled(f"{stage}: cancelled")
        if isinstance(error, (*_REPLICA_DIED, DeploymentUnavailableError, RayServeException)):
            return _gone(stage)
        return StageFailed(f"{stage} failed: {type(cause).__name__}: {cause}")


class _Attempts:
    """Whether a request is tried once more, and after which pause."""

    def __init__(self) -> None:
        self._num_ended = 0  # replicas that ended with the request in hand
        self._num_tries = 0

    def another(self, error: Exception, failure: TriptychError) -> bool:
        self._num_tries += 1
        if isinstance(error, _REPLICA_DIED) or isinstance(failure, Broken):
            self._num_ended += 1
            return self._num_ended < MAX_ATTEMPTS
        refused = isinstance(error, ray.exceptions.RayTaskError) and isinstance(failure, Unavailable)
        hopeless = isinstance(failure, InputUnavailable)
        return refused and not hopeless and self._num_tries <= MAX_TRIES

    async def pause(self, stage: str, item: Item[Any]) -> None:
        """Up to a second: until Serve notices, the same replica may be chosen again. Raises `DeadlineExceeded`."""
        pause_s, left_s = min(1.0, 0.05 * 2**self._num_tries), remaining_s(item)
        await asyncio.sleep(pause_s if left_s is None else min(pause_s, left_s))
        if remaining_s(item) == 0:
            raise _too_late(stage)


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
            async with asyncio.timeout(remaining_s(item)):
                events = await anext(iterator)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise _too_late(stage) from None
        yield events


def _too_late(stage: str) -> DeadlineExceeded:
    return too_late(f"it was with {stage}")


def _gone(stage: str) -> Unavailable:
    return Unavailable(f"{stage}: its replica died and no other took over in time; try again", retry_after_s=5.0)
