"""A deployment of a stage as its callers have it: by which way each call goes, and how fast it answers.

By Serve's gRPC goes what is small, in pieces (`pieces.py`): by way of Ray's objects each takes the processors about twice as long. What is
large goes by those, which copy nothing (`benchmarks/overhead/crossings.py`). A unary call of gRPC doesn't say that it was accepted before
it is done, so one that is answered at once is a stream, too, of one answer. Decides what is small; knows no replica.
"""

import time
from typing import Any

from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from pipelines.cluster.attempts import translated
from pipelines.routing.table import pool_key
from stages.contract.errors import TriptychError
from stages.contract.item import Item, Reply
from stages.host.packed_item import PackedItem, as_bytes

SMALL_BYTES = 512 * 1024
"""From there on a call that is answered at once goes by way of Ray's objects."""
OF_BEFORE_S = 30.0
"""How long replicas of an earlier version are called as before, while a cluster is updated."""


class Pool:
    """`is_met`: who is in it was told, or waited for long enough."""

    def __init__(self, name: str, handle: DeploymentHandle) -> None:
        self.name, self._handle = name, handle
        self.key = pool_key(handle.app_name, name)
        self.pace = Pace()
        self.is_met = False
        self._methods: dict[tuple[str, bool], DeploymentHandle] = {}
        self._large: set[str] = set()
        self._of_before: dict[str, float] = {}

    def method(self, name: str, sent: Item[Any] | PackedItem | None = None) -> DeploymentHandle:
        """Whatever Serve's own default is (RAY_SERVE_USE_GRPC_BY_DEFAULT)."""
        by_grpc = isinstance(sent, PackedItem) and sent.in_pieces
        if (name, by_grpc) not in self._methods:
            how = {"request_serialization": "pickle", "response_serialization": "pickle"} if by_grpc else {}
            method = self._handle.options(method_name=name, stream=name != "call", _by_reference=not by_grpc, **how)
            self._methods[name, by_grpc] = method
        return self._methods[name, by_grpc]

    def small(self, stage: str, item: Item[Any]) -> PackedItem | None:
        """For "answer", where it is small, and so was what the stage answered last."""
        if stage in self._large or time.monotonic() < self._of_before.get(stage, 0.0):
            return None
        return as_bytes(item, max_bytes=SMALL_BYTES)

    def heard(self, stage: str, reply: Reply[Any]) -> None:
        """What the stage answered."""
        if reply.value.num_bytes > SMALL_BYTES:
            self._large.add(stage)
        else:
            self._large.discard(stage)

    def is_of_before(self, error: Exception, stage: str) -> bool:
        """Whether a replica of an earlier version knows no "answer": then none of them is asked for one, for a while."""
        if not isinstance(error, RayServeException) or "method 'answer'" not in str(error):
            return False
        self._of_before[stage] = time.monotonic() + OF_BEFORE_S
        return True

    def translated(self, error: Exception, stage: str, item: Item[Any]) -> TriptychError:
        return translated(error, stage, item, pool=self.name, retry_after_s=self.pace.retry_after_s())


class Pace:
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
