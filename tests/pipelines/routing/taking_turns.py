"""A router that Triptych doesn't ship: whoever was asked longest ago is next. All that a router takes is written here, and a pool has it by
naming it (`request_router_class`): who calls the pool, and what is in its replicas, stay as they are."""

from collections.abc import Mapping, Sequence

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


def in_turn(names: Sequence[str], asked: Mapping[str, int]) -> list[str]:
    """The ranking, which is pure: `asked`: when each was asked last, as numbers of calls; who never was comes first."""
    return sorted(names, key=lambda name: (asked.get(name, -1), name))


class TakingTurns(RequestRouter):
    def initialize_state(self) -> None:
        self._asked: dict[str, int] = {}
        self._num_calls = 0

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """One after the other, until one takes it."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # these are all there are
        there = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        first, *others = in_turn(list(there), self._asked)
        self._num_calls += 1
        self._asked[first] = self._num_calls
        return [[there[name]] for name in (first, *others)]
