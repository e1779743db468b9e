"""Serve's router by names, over replicas that say how busy they are: its own loops, without a cluster."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve.request_router import PendingRequest

from pipelines.routing.name_router import NameRouter
from pipelines.routing.ownership import owner
from stages.contract.item import Item

DEPLOYMENT = DeploymentID("encoder", "app")


class Replica:
    """As much of Serve's `RunningReplica` as a router asks."""

    max_ongoing_requests = 8

    def __init__(self, number: int) -> None:
        self.replica_id = ReplicaID(f"r{number}", DEPLOYMENT)
        self.ongoing = 0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return self.ongoing


class Scene:
    def __init__(self, num_replicas: int, max_ahead: int = 4) -> None:
        self.router = NameRouter(
            deployment_id=DEPLOYMENT,
            handle_source=DeploymentHandleSource.REPLICA,
            use_replica_queue_len_cache=True,
            initial_backoff_s=0.001,
            max_backoff_s=0.001,
        )
        self.router.initialize_state(max_ahead=max_ahead)
        self.replicas = [Replica(number) for number in range(num_replicas)]
        self.show(self.replicas)

    def show(self, replicas: Sequence[Replica]) -> None:
        self.router.update_replicas(list(replicas))

    def busy(self, replica: Replica, ongoing: int) -> None:
        replica.ongoing = ongoing
        self.router.on_new_queue_len_info(replica.replica_id, ongoing)

    def owner(self, name: str) -> Replica:
        own = owner(name, [replica.replica_id.unique_id for replica in self.replicas])
        return next(replica for replica in self.replicas if replica.replica_id.unique_id == own)

    async def route(self, name: str | None, request: str = "r") -> Any:
        metadata = RequestMetadata(request, request, call_method="call")
        pending = PendingRequest(["m.encoder", Item("i", None, name)], {}, metadata)
        return await asyncio.wait_for(self.router._choose_replica_for_request(pending), 30)


async def test_a_name_goes_to_its_owner_every_time() -> None:
    scene = Scene(3)
    for name in ("a", "b", "c", "d", "e"):
        assert {await scene.route(name) for _ in range(5)} == {scene.owner(name)}


async def test_what_has_no_name_goes_to_the_less_busy_of_two() -> None:
    scene = Scene(2)
    scene.busy(scene.replicas[0], 3)
    scene.busy(scene.replicas[1], 1)
    assert {await scene.route(None) for _ in range(8)} == {scene.replicas[1]}


async def test_an_owner_that_is_much_busier_than_another_is_spared() -> None:
    scene = Scene(2, max_ahead=4)
    own = scene.owner("a")
    (other,) = [replica for replica in scene.replicas if replica is not own]
    scene.busy(other, 1)
    scene.busy(own, 5)
    assert await scene.route("a") is own
    scene.busy(own, 6)
    assert await scene.route("a") is other


async def test_a_full_owner_is_passed_over_and_nobody_waits_for_it() -> None:
    scene = Scene(2, max_ahead=100)
    own = scene.owner("a")
    scene.busy(own, Replica.max_ongoing_requests)
    assert await scene.route("a") is not own


async def test_where_all_are_full_it_waits_and_pauses_until_one_has_room() -> None:
    scene = Scene(2)
    for replica in scene.replicas:
        scene.busy(replica, Replica.max_ongoing_requests)
    waiting = asyncio.create_task(scene.route("a"))
    for _ in range(200):
        await asyncio.sleep(0)
    assert not waiting.done()
    scene.replicas[0].ongoing = 0
    assert await waiting is scene.replicas[0]


async def test_with_one_replica_everything_goes_there() -> None:
    scene = Scene(1)
    assert {await scene.route(name) for name in ("a", "b", None)} == {scene.replicas[0]}


async def test_a_name_goes_to_another_when_its_owner_is_gone() -> None:
    scene = Scene(3)
    own = scene.owner("a")
    scene.router.on_replica_actor_died(own.replica_id)
    scene.replicas.remove(own)
    assert await scene.route("a") is scene.owner("a")


@pytest.mark.parametrize("calls", [2, 64])
async def test_calls_of_one_request_at_the_same_moment_each_go_to_their_own_names_owner(calls: int) -> None:
    """They share Serve's id of the request."""
    scene = Scene(4, max_ahead=1000)
    names = [f"name {number}" for number in range(calls)]
    routed = await asyncio.gather(*(scene.route(name, request="the same") for name in names))
    assert routed == [scene.owner(name) for name in names]
    if calls > 4:
        assert len(Counter(replica.replica_id for replica in routed)) == 4


async def test_a_call_that_is_called_off_takes_no_others_replica() -> None:
    scene = Scene(2)
    for replica in scene.replicas:
        scene.busy(replica, Replica.max_ongoing_requests)
    calls = [asyncio.create_task(scene.route(name)) for name in ("a", "b")]
    for _ in range(20):
        await asyncio.sleep(0)
    calls[0].cancel()
    for replica in scene.replicas:
        replica.ongoing = 0
    assert await calls[1] is scene.owner("b")
    with pytest.raises(asyncio.CancelledError):
        await calls[0]
