"""A router that Triptych doesn't ship (`taking_turns.py`): its ranking, and Serve's own loops around it, without a cluster. On a cluster:
`tests/cluster/test_another_router.py`."""

import asyncio
from collections import Counter

from ray.serve._private.common import DeploymentHandleSource, RequestMetadata
from ray.serve.request_router import PendingRequest

from tests.pipelines.routing.taking_turns import TakingTurns, in_turn
from tests.pipelines.routing.test_pool_router import DEPLOYMENT, Replica


def test_who_was_asked_longest_ago_is_next_and_who_never_was_comes_first() -> None:
    assert in_turn(["a", "b", "c"], {"a": 3, "b": 1}) == ["c", "b", "a"]


async def test_replicas_take_turns_and_a_full_one_is_passed_over() -> None:
    router = TakingTurns(
        deployment_id=DEPLOYMENT,
        handle_source=DeploymentHandleSource.REPLICA,
        use_replica_queue_len_cache=True,
        initial_backoff_s=0.001,
        max_backoff_s=0.001,
    )
    router.initialize_state()
    replicas = [Replica(number) for number in range(3)]
    router.update_replicas(list(replicas))

    async def route() -> str:
        metadata = RequestMetadata("r", "r", call_method="call")
        pending = PendingRequest(["m.stage", "item"], {"to": None}, metadata)
        taken = await asyncio.wait_for(router._choose_replica_for_request(pending), 30)
        return str(taken.replica_id.unique_id)

    assert Counter([await route() for _ in range(9)]) == {replica.name: 3 for replica in replicas}
    full = replicas[0]
    full.ongoing = Replica.max_ongoing_requests
    router.on_new_queue_len_info(full.replica_id, full.ongoing)
    assert full.name not in [await route() for _ in range(6)]
