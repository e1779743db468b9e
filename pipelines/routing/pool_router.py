"""Ray Serve's router for a pool of stages: the replica that the caller has chosen (`pipelines/routing/ranking.py`), unless it is gone or
full; then the one that would be next. What comes without a choice goes to two at random, of which Serve takes the less busy, as it does
by itself.

Tells the caller's process who is in the pool, how busy they are, and what they have published of themselves. Serve pickles this module
by value, to every process that calls the deployment: what it imports must be there. Serve drops a request whose router fails, and its
caller waits to the deadline: whatever goes wrong with a choice, it goes to two at random.
"""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from pipelines.routing.published import NEWS, news_in
from pipelines.routing.route import Route
from pipelines.routing.table import Member, pool_key, table_of_this_process
from stages.contract.news import StageNews

logger = logging.getLogger(__name__)


class PoolRouter(RequestRouter):
    """`request_router_kwargs`: `published_s`, how old what Serve publishes may be when it arrives."""

    def initialize_state(self, *, published_s: float) -> None:
        self._published_s = published_s
        self._pool = pool_key(self._deployment_id.app_name, self._deployment_id.name)
        self._table = table_of_this_process()
        self._published: dict[str, tuple[bytes, Sequence[StageNews]]] = {}
        self._routed_by: WeakKeyDictionary[asyncio.Task[Any], PendingRequest] = WeakKeyDictionary()
        self._unreachable: set[str] = set()  # since Serve last told who is there

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._unreachable.clear()
        self._tell_who_is_there()
        now = time.monotonic()
        for replica in replicas:
            for news in self._news_of(replica):
                self._table.heard(self._pool, news, now, delay_s=self._published_s)

    def _news_of(self, replica: RunningReplica) -> Sequence[StageNews]:
        """What it last published, also where that is not new: Serve tells of all when one has news."""
        name, published = replica.replica_id.unique_id, (replica.routing_stats or {}).get(NEWS)
        if not published:
            return ()
        known = self._published.get(name)
        if known is None or known[0] != published:
            known = self._published[name] = published, news_in(published)
        return known[1]

    def on_replica_actor_died(self, replica_id: Any) -> None:
        super().on_replica_actor_died(replica_id)
        self._unreachable.add(replica_id.unique_id)
        self._tell_who_is_there()

    def on_replica_actor_unavailable(self, replica_id: Any) -> None:
        super().on_replica_actor_unavailable(replica_id)
        self._unreachable.add(replica_id.unique_id)

    async def _choose_replica_for_request(self, pending_request: PendingRequest, *, is_retry: bool = False) -> RunningReplica:
        """Again, where whom it went to has not taken it. Serve waits for another of this pool as long as it takes; the caller may not."""
        route = pending_request.kwargs.get("to")
        if is_retry and isinstance(route, Route):
            route.came_back(is_lost=route.replica in self._unreachable)
        return await super()._choose_replica_for_request(pending_request, is_retry=is_retry)

    def on_request_routed(self, pending_request: PendingRequest, replica_id: Any, result: Any) -> None:
        super().on_request_routed(pending_request, replica_id, result)
        route = pending_request.kwargs.get("to")
        if isinstance(route, Route):
            route.was_accepted()

    def _tell_who_is_there(self) -> None:
        there = {replica.replica_id.unique_id: replica for replica in self._replicas_list}
        members = [Member(name, replica.max_ongoing_requests) for name, replica in there.items()]
        ids = {name: replica.replica_id for name, replica in there.items()}
        ongoing = self.replica_queue_len_cache
        self._table.members(self._pool, members, lambda name: ongoing.get(ids[name]), time.monotonic())
        for name in self._published.keys() - ids.keys():
            del self._published[name]

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        two = random.sample(candidate_replicas, min(2, len(candidate_replicas)))
        if pending_request is None:
            return [two]
        self._note(pending_request)
        pending_request.routing_context.should_backoff = True  # these are all there are: pause before they are asked again
        route = pending_request.kwargs.get("to")
        if not isinstance(route, Route):
            return [two]
        try:
            first = self._chosen(route, candidate_replicas)
        except Exception:
            logger.exception("%s: no replica could be chosen, so that the call goes to any", self._pool)
            return [two]
        return [[first], two] if first is not None else [two]

    def _chosen(self, route: Route, candidate_replicas: list[RunningReplica]) -> RunningReplica | None:
        there = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        first = there.get(route.replica)
        return there.get(route.rank_again() or "") if first is None or self._is_full(first) else first

    def _is_full(self, replica: RunningReplica) -> bool:
        ongoing = self.replica_queue_len_cache.get(replica.replica_id)
        return ongoing is not None and ongoing >= replica.max_ongoing_requests

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
            route = pending_request.kwargs.get("to")
            if isinstance(route, Route):
                self._tell_where_it_went(route, replica)

    def _tell_where_it_went(self, route: Route, replica: RunningReplica) -> None:
        try:
            route.went(replica.replica_id.unique_id, partial(replica.get_queue_len, deadline_s=float("inf")))
        except Exception:
            logger.exception("%s: a call is not counted at its replica", self._pool)
