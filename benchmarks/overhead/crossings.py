"""What a call of one deployment by another takes by each way that `pipelines/cluster/pool.py` knows, by the size of its answer: Ray Serve's
own handles, and nothing done behind them."""

from __future__ import annotations

import asyncio
import pickle
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import serve

from benchmarks.servers.cluster import cluster, deployed
from pipelines.cluster.pieces import Joined, pieces

BY_OBJECTS, BY_GRPC = "by way of Ray's objects", "by gRPC, a stream of one answer"
SIZES = {"4 kB": 4_000, "256 kB": 256_000, "4 MB": 4_000_000}
NUM_WARMING_UP = 5
REST_S = 0.005  # between two: one at a time
MAX_ONGOING = 64


@dataclass(frozen=True, slots=True)
class Crossing:
    """`seconds`: the median of calls that are made one at a time. `cpu_s`: of the caller's process, each."""

    way: str
    size: str
    seconds: float
    cpu_s: float


class Answers:
    async def call(self, num_bytes: int) -> NDArray[np.uint8]:
        return np.zeros(num_bytes, np.uint8)

    async def answer(self, num_bytes: int) -> AsyncIterator[bytes]:
        for piece in pieces(np.zeros(num_bytes, np.uint8)):
            yield piece


class Asks:
    def __init__(self, behind: Any) -> None:
        pickled = {"request_serialization": "pickle", "response_serialization": "pickle"}
        self._call = behind.options(method_name="call", _by_reference=True)
        self._answer = behind.options(method_name="answer", stream=True, _by_reference=False, **pickled)

    async def took(self, way: str, num_bytes: int, count: int) -> tuple[float, float]:
        """Median seconds, and seconds of the processor."""
        took_s, cpu_s = [], 0.0
        for index in range(NUM_WARMING_UP + count):
            began, computing = time.perf_counter(), time.process_time()
            found = await (self._call.remote(num_bytes) if way == BY_OBJECTS else self._joined(num_bytes))
            assert found.nbytes == num_bytes
            if index >= NUM_WARMING_UP:
                took_s.append(time.perf_counter() - began)
                cpu_s += time.process_time() - computing
            await asyncio.sleep(REST_S)
        return statistics.median(took_s), cpu_s / count

    async def _joined(self, num_bytes: int) -> Any:
        joined = Joined()
        async for piece in self._answer.remote(num_bytes):
            if (value := joined.add(piece)) is not None:
                return value
        raise pickle.UnpicklingError("no whole answer")


def crossings(*, count: int) -> Sequence[Crossing]:
    """In a cluster of its own. The ways take turns."""
    with cluster():
        behind = deployed(Answers, (), name="answers", max_ongoing_requests=MAX_ONGOING)
        asks = serve.run(deployed(Asks, (behind,), name="asks", max_ongoing_requests=MAX_ONGOING), name="crossings")
        return [
            Crossing(way, size, *asks.took.remote(way, num_bytes, count).result())
            for size, num_bytes in SIZES.items()
            for way in (BY_OBJECTS, BY_GRPC)
        ]
