"""What comes of a call to a replica that went wrong: what the caller is told, and whether, and after which pause, it is made again.

The request itself may be what ends replicas: after `MAX_LOST` of them it fails with `ReplicaLost`. All pieces of a request count together.
A stream that goes on behind what was told is not what ends them as long as it comes further each time, or at least seldom: of those
`MAX_LOST_BETWEEN` may end under it.

What ended for another reason costs a pause and no attempt, as far as that can be told:
- a replica that dies before it has accepted a request: Serve's router sends that to another of its pool, and the caller to another
  pool (`serve_client.py`);
- one that only refuses (it is broken, or closing, and Serve has yet to replace it), also where its device broke while the request
  waited there (`stages/engine/device_faults.py`);
- one that went with its whole node;
- one without room, where the request is to go on with what was begun elsewhere.

While a cluster is updated, what one replica can't read, or tells so that it can't be read here, another may: up to `MAX_UNREADABLE` of them
are tried, and then the request fails with `Unreadable`.

A replica that is stopped in order ends the requests in its hand first, so who is killed by Serve itself did not end in time: that
counts. Where a stage behind the one that is called is unavailable, its replica has tried. Knows no handles.
"""

import asyncio
import time
from typing import Any

import grpc
import ray.exceptions
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException, RequestCancelledError

from stages.contract.errors import (
    Broken,
    Cancelled,
    DeadlineExceeded,
    InputUnavailable,
    QueueFull,
    ReplicaLost,
    StageFailed,
    TriptychError,
    Unavailable,
    Unreadable,
)
from stages.contract.item import Item
from stages.host.deadlines import remaining_s, too_late

MAX_LOST = 2
MAX_LOST_BETWEEN = 4
MAX_FULL = 2
MAX_UNREADABLE = 4
MAX_TRIES = 300  # of a request without a deadline
FIRST_PAUSE_S, MAX_PAUSE_S = 0.1, 1.0
_CANCELLED = (Cancelled, RequestCancelledError, ray.exceptions.TaskCancelledError)
_NODE_DIED = (ray.exceptions.NodeDiedError, ray.exceptions.OwnerDiedError)
_REPLICA_DIED = (ray.exceptions.RayActorError, *_NODE_DIED)


class Attempts:
    """Of one piece of a request. `lost`: shared by all of them. `tried`: replicas that are to be spared while there are others."""

    def __init__(self, lost: set[str] | None) -> None:
        self._lost = lost if lost is not None else set()
        self._num_tries = self._num_full = self._num_unreadable = 0
        self._is_to_pause = True
        self.tried: set[str] = set()

    def another(
        self, error: Exception, failure: TriptychError, replica: str, *, goes_on: bool = False, waits: bool = False
    ) -> bool:
        """Notes which replica was lost, if one was. `replica`: where it was tried ("": nowhere). `goes_on`: it came further there, and
        goes on from that; `waits`: what it has begun is worth waiting for room."""
        self._num_tries += 1
        self._is_to_pause = True
        self.tried |= {replica} - {""}
        if isinstance(failure, Broken):
            self._lost.add(str(failure))  # it names the replica
        elif isinstance(error, ray.exceptions.RayActorError) and not _went_with_its_node(error):
            self._lost.add(error.actor_id or f"one that nobody names, in try {self._num_tries}")
        elif not self._had_no_part(error, failure) and not (waits and isinstance(failure, QueueFull)):
            return False
        return len(self._lost) < (MAX_LOST_BETWEEN if goes_on else MAX_LOST) and self._num_tries <= MAX_TRIES

    def one_with_room(self) -> bool:
        """One more, without a pause."""
        self._num_full += 1
        self._is_to_pause = False
        return self._num_full <= MAX_FULL

    def one_of_another_version(self, *, is_known: bool) -> bool:
        """One more; without a pause where it is known who."""
        self._num_unreadable += 1
        self._is_to_pause = not is_known
        return self._num_unreadable < MAX_UNREADABLE

    def _had_no_part(self, error: Exception, failure: TriptychError) -> bool:
        if isinstance(error, _NODE_DIED) or _went_with_its_node(error):
            return True
        refused = is_told_by_stage(error) and isinstance(failure, Unavailable)
        return refused and not isinstance(failure, InputUnavailable | Unreadable)

    def last(self, stage: str, failure: TriptychError) -> TriptychError:
        """What is told in the end. Where a replica was lost and nobody could try again, trying later might cost the next one."""
        if self._lost and isinstance(failure, Unavailable):
            return ReplicaLost(f"{stage}: {len(self._lost)} replicas ended under the request", detail=str(failure))
        return failure

    async def pause(self, stage: str, item: Item[Any]) -> None:
        """Up to a second: until Serve notices, the same replica may be chosen again. Raises `DeadlineExceeded`."""
        pause_s, left_s = FIRST_PAUSE_S * 2 ** (self._num_tries - 1), remaining_s(item)
        pause_s = min(MAX_PAUSE_S, pause_s) if self._is_to_pause else 0.0
        await asyncio.sleep(pause_s if left_s is None else min(pause_s, left_s))
        if remaining_s(item) == 0:
            raise too_late_with(stage)


def is_told_by_stage(error: Exception) -> bool:
    """Raised where the item was to be done, not on the way there. Ray wraps it; what comes by gRPC arrives as it is."""
    return isinstance(error, ray.exceptions.RayTaskError | TriptychError)


def _went_with_its_node(error: Exception) -> bool:
    """Ray says so only in words, unless the node was preempted."""
    return isinstance(error, ray.exceptions.RayActorError) and (error.preempted or "node has died" in str(error))


def translated(error: Exception, stage: str, item: Item[Any], *, pool: str, retry_after_s: float) -> TriptychError:
    """What a caller is told of what Ray or the stage raised. `retry_after_s`: where all of the pool's replicas are busy."""
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    if isinstance(cause, _CANCELLED) and time.time() >= item.deadline:
        return too_late_with(stage)  # the deadline is what cancelled it
    if isinstance(cause, TriptychError):
        return cause
    if (unread := _not_unpickled(cause)) is not None:
        return Unreadable(
            f"{stage}: its replica and who calls it are of two versions; try again", retry_after_s=5.0, detail=unread
        )
    if isinstance(error, BackPressureError):
        return QueueFull(
            f"{stage}: every replica is busy and the queue before them is full "
            f"(deployments.{pool}.max_queued_requests); try again",
            retry_after_s=retry_after_s,
        )
    if isinstance(error, _CANCELLED):
        return Cancelled(f"{stage}: cancelled")
    if isinstance(error, (*_REPLICA_DIED, DeploymentUnavailableError, RayServeException)):
        return Unavailable(f"{stage}: its replica died and no other took over in time; try again", retry_after_s=5.0)
    return StageFailed(f"{stage} failed", detail=f"{type(cause).__name__}: {cause}")


def _not_unpickled(cause: BaseException) -> str | None:
    """What was wrong with what arrived, where that could not be unpickled: as Ray tells of it, or a gRPC server of a call's arguments.
    What a stage tells by gRPC is unpickled here (`pieces.py`), but for its errors, which every version can read."""
    if isinstance(cause, ray.exceptions.RaySystemError) and isinstance(cause.client_exc, Exception):
        return f"{type(cause.client_exc).__name__}: {cause.client_exc}"
    if isinstance(cause, grpc.aio.AioRpcError) and cause.code() is grpc.StatusCode.UNKNOWN:
        return cause.details()
    return None


def too_late_with(stage: str) -> DeadlineExceeded:
    return too_late(f"it was with {stage}")
