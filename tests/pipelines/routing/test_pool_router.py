"""Serve's router of a pool, over replicas that say how busy they are: its own loops, without a cluster."""

import asyncio
import pickle
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve.request_router import PendingRequest

from pipelines.routing.candidate import Wanted
from pipelines.routing.pool_router import PoolRouter
from pipelines.routing.published import NEWS, as_published
from pipelines.routing.route import Route
from pipelines.routing.table import ReplicaTable, pool_key
from stages.contract.news import hint
from stages.contract.work import Work
from tests.pipelines.routing.fleet import STAGE, news, owner

DEPLOYMENT = DeploymentID("encoder", "app")
POOL = pool_key("app", "encoder")
WORK = Work(10.0, 10.0)


class Replica:
    """As much of Serve's `RunningReplica` as a router asks."""

    max_ongoing_requests = 8

    def __init__(self, number: int) -> None:
        self.replica_id = ReplicaID(f"r{number}", DEPLOYMENT)
        self.ongoing = 0
        self.routing_stats: Mapping[str, bytes] = {}

    @property
    def name(self) -> str:
        return str(self.replica_id.unique_id)

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return self.ongoing


class Scene:
    def __init__(self, num_replicas: int, table: ReplicaTable) -> None:
        self.table = table
        self.router = PoolRouter(
            deployment_id=DEPLOYMENT,
            handle_source=DeploymentHandleSource.REPLICA,
            use_replica_queue_len_cache=True,
            initial_backoff_s=0.001,
            max_backoff_s=0.001,
        )
        self.router.initialize_state(published_s=0.5)
        self.replicas = [Replica(number) for number in range(num_replicas)]
        self.show(self.replicas)

    def show(self, replicas: Sequence[Replica]) -> None:
        self.router.update_replicas(list(replicas))

    def busy(self, replica: Replica, ongoing: int) -> None:
        replica.ongoing = ongoing
        self.router.on_new_queue_len_info(replica.replica_id, ongoing)

    def owner(self, name: str) -> Replica:
        own = owner(name, [replica.name for replica in self.replicas])
        return next(replica for replica in self.replicas if replica.name == own)

    def chosen(self, name: str | None = None) -> Route:
        wanted = Wanted(WORK, name=hint(name) if name is not None else None)
        return Route(self.table, STAGE, POOL, wanted, self.table.ranked(STAGE, [POOL], wanted, time.monotonic()), frozenset())

    async def route(self, route: Route | None, request: str = "r") -> Any:
        metadata = RequestMetadata(request, request, call_method="call")
        pending = PendingRequest([STAGE, "item"], {"to": route}, metadata)
        replica = await asyncio.wait_for(self.router._choose_replica_for_request(pending), 30)
        assert route is None or route.replica == replica.name
        return replica


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> ReplicaTable:
    made = ReplicaTable(random.Random(1).random)
    monkeypatch.setattr("pipelines.routing.pool_router.table_of_this_process", lambda: made)
    return made


async def test_whom_the_caller_has_chosen_takes_it(table: ReplicaTable) -> None:
    scene = Scene(3, table)
    for _ in range(12):
        route = scene.chosen()
        chosen = route.replica
        assert (await scene.route(route)).name == chosen


async def test_who_has_not_chosen_yet_is_sent_to_the_soonest(table: ReplicaTable) -> None:
    """Before the first call of a process, nobody has said who is there."""
    scene = Scene(2, table)
    table.heard(POOL, news("r0", 40), time.monotonic())
    table.heard(POOL, news("r1", 0), time.monotonic())
    route = Route(table, STAGE, POOL, Wanted(WORK, priority=-1), None, frozenset())
    assert (await scene.route(route)).name == "r1"


async def test_what_comes_without_a_choice_goes_to_the_less_busy_of_two(table: ReplicaTable) -> None:
    scene = Scene(2, table)
    scene.busy(scene.replicas[0], 3)
    scene.busy(scene.replicas[1], 1)
    assert {await scene.route(None) for _ in range(8)} == {scene.replicas[1]}


async def test_a_full_replica_is_passed_over_for_the_next_and_nobody_waits_for_it(table: ReplicaTable) -> None:
    scene = Scene(2, table)
    route = scene.chosen("a")
    assert route.replica == scene.owner("a").name
    scene.busy(scene.owner("a"), Replica.max_ongoing_requests)
    assert await scene.route(route) is not scene.owner("a")
    assert table.demand()[POOL, STAGE].num_unplaced == 0


async def test_where_all_are_full_it_waits_and_pauses_until_one_has_room(table: ReplicaTable) -> None:
    scene = Scene(2, table)
    for replica in scene.replicas:
        scene.busy(replica, Replica.max_ongoing_requests)
    waiting = asyncio.create_task(scene.route(scene.chosen("a")))
    for _ in range(200):
        await asyncio.sleep(0)
    assert not waiting.done()
    assert table.demand()[POOL, STAGE].num_unplaced == 1  # which the scaler is told
    scene.replicas[0].ongoing = 0
    assert await waiting is scene.replicas[0]
    assert table.demand()[POOL, STAGE].num_unplaced == 0


async def test_a_call_goes_to_another_when_whom_it_was_meant_for_is_gone(table: ReplicaTable) -> None:
    scene = Scene(3, table)
    route, own = scene.chosen("a"), scene.owner("a")
    scene.router.on_replica_actor_died(own.replica_id)
    scene.replicas.remove(own)
    assert await scene.route(route) is scene.owner("a")
    assert (scene.chosen("a")).replica == scene.owner("a").name  # and nobody is sent there any more


async def test_what_replicas_publish_of_themselves_is_believed_by_all_who_call_them(table: ReplicaTable) -> None:
    scene = Scene(2, table)
    scene.replicas[0].routing_stats = {NEWS: as_published([news("r0", 40)])}
    scene.replicas[1].routing_stats = {NEWS: as_published([news("r1", 0)])}
    scene.show(scene.replicas)
    assert {scene.chosen().replica for _ in range(3)} == {"r1"}


@pytest.mark.parametrize("calls", [2, 64])
async def test_calls_of_one_request_at_the_same_moment_each_go_to_their_own_replica(table: ReplicaTable, calls: int) -> None:
    """They share Serve's id of the request."""
    scene = Scene(4, table)
    for replica in scene.replicas:
        replica.max_ongoing_requests = 100
    scene.show(scene.replicas)
    routes = [scene.chosen(f"name {number}") for number in range(calls)]
    chosen = [route.replica for route in routes]
    routed = await asyncio.gather(*(scene.route(route, request="the same") for route in routes))
    assert [replica.name for replica in routed] == chosen
    if calls > 4:
        assert len(Counter(chosen)) == 4


async def test_a_call_that_is_called_off_takes_no_others_replica(table: ReplicaTable) -> None:
    scene = Scene(2, table)
    for replica in scene.replicas:
        scene.busy(replica, Replica.max_ongoing_requests)
    routes = [scene.chosen(name) for name in ("a", "b")]
    calls = [asyncio.create_task(scene.route(route)) for route in routes]
    for _ in range(20):
        await asyncio.sleep(0)
    calls[0].cancel()
    for replica in scene.replicas:
        replica.ongoing = 0
    assert (await calls[1]).name == routes[1].replica
    with pytest.raises(asyncio.CancelledError):
        await calls[0]


@pytest.mark.parametrize("fails", ["ranked", "went"])
async def test_whatever_goes_wrong_with_a_choice_the_request_is_not_dropped(
    table: ReplicaTable, monkeypatch: pytest.MonkeyPatch, fails: str, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(*given: object, **named: object) -> None:
        raise RuntimeError("on purpose")

    scene = Scene(2, table)
    route = Route(table, STAGE, POOL, Wanted(WORK), None, frozenset())
    monkeypatch.setattr(table, fails, wrong)
    metadata = RequestMetadata("r", "r", call_method="call")
    routed = scene.router._choose_replica_for_request(PendingRequest([STAGE, "item"], {"to": route}, metadata))
    assert await asyncio.wait_for(routed, 30) in scene.replicas
    assert "on purpose" in caplog.text


def test_a_route_goes_to_the_replica_as_nothing(table: ReplicaTable) -> None:
    route = Route(table, STAGE, POOL, Wanted(WORK), None, frozenset())
    assert pickle.loads(pickle.dumps(route)) is None  # noqa: S301


@pytest.mark.parametrize("why", ["on_replica_actor_unavailable", "on_replica_actor_died", "no room"])
async def test_a_call_that_its_replica_has_not_taken_is_known_to_be_with_nobody_until_another_takes_it(
    table: ReplicaTable, why: str
) -> None:
    scene = Scene(1, table)
    route = scene.chosen()
    pending = PendingRequest([STAGE, "item"], {"to": route}, RequestMetadata("r", "r", call_method="call"))
    assert route.placed_at is None
    first = await asyncio.wait_for(scene.router._choose_replica_for_request(pending), 30)
    assert route.placed_at is not None
    scene.busy(scene.replicas[0], Replica.max_ongoing_requests)
    if why != "no room":
        getattr(scene.router, why)(first.replica_id)
    pending.reset_future()
    again = asyncio.create_task(scene.router._choose_replica_for_request(pending, is_retry=True))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not again.done()
    assert route.placed_at is None
    assert route.tried == (frozenset() if why == "no room" else {first.replica_id.unique_id})
    scene.show([Replica(7)])
    assert (await asyncio.wait_for(again, 30)).replica_id.unique_id == "r7"
    assert route.placed_at is not None


async def test_a_call_is_told_that_its_replica_has_accepted_it(table: ReplicaTable) -> None:
    scene = Scene(1, table)
    route = scene.chosen()
    pending = PendingRequest([STAGE, "item"], {"to": route}, RequestMetadata("r", "r", call_method="call"))
    replica = await asyncio.wait_for(scene.router._choose_replica_for_request(pending), 30)
    assert not route.is_accepted
    scene.router.on_request_routed(pending, replica.replica_id, None)
    assert route.is_accepted
