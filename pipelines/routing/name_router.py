"""Ray Serve's router for results that have names: a name's owner first (`pipelines/routing/ownership.py`), then, where that one is busy
or full, two replicas at random, of which Serve takes the less busy, as it does by itself. What has no name goes to two at random.

Knows of a request only its item's name. Serve pickles this module by value, to every process that calls the deployment: what it
imports must be there.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from pipelines.routing.ownership import owner_unless_busy
from stages.contract.item import Item


class NameRouter(RequestRouter):
    """`request_router_kwargs`: `max_ahead`, of how many more requests than another replica an owner may have in hand."""

    def initialize_state(self, *, max_ahead: int) -> None:
        self._max_ahead = max_ahead
        self._routed_by: WeakKeyDictionary[asyncio.Task[Any], PendingRequest] = WeakKeyDictionary()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        two = random.sample(candidate_replicas, min(2, len(candidate_replicas)))
        if pending_request is None:
            return [two]
        self._note(pending_request)
        pending_request.routing_context.should_backoff = True  # these are all there are: pause before they are asked again
        first = self._owner(candidate_replicas, _name_of(pending_request.args)) if len(candidate_replicas) > 1 else None
        return [[first], two] if first is not None else [two]

    def _owner(self, replicas: Sequence[RunningReplica], name: str | None) -> RunningReplica | None:
        if name is None:
            return None
        by_id = {replica.replica_id.unique_id: replica for replica in replicas}
        ongoing = {key: self.replica_queue_len_cache.get(replica.replica_id) for key, replica in by_id.items()}
        first = owner_unless_busy(name, ongoing, self._max_ahead)
        return by_id[first] if first is not None else None

    def _note(self, pending_request: PendingRequest) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._routed_by[task] = pending_request

    def _fulfill_next_pending_request(self, replica: RunningReplica, request_metadata: Any = None) -> None:
        """The request that the replica was chosen for gets it, and no other: Serve goes by an id that all calls of one HTTP request
        share, and of several leaves all but one waiting for ever."""
        task = asyncio.current_task()
        pending_request = self._routed_by.get(task) if task is not None else None
        if pending_request is None:
            super()._fulfill_next_pending_request(replica, request_metadata)
        elif not pending_request.future.done():
            self._record_queue_wait_time(pending_request)
            pending_request.future.set_result(replica)
            self._remove_pending_request_from_indices(pending_request)


def _name_of(args: Sequence[object]) -> str | None:
    return next((arg.name for arg in args if isinstance(arg, Item)), None)
