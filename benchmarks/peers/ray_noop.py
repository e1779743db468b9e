"""Ray Serve doing nothing: an HTTP route, a call of a handle, a stream of one item. What any application on it pays at least."""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from ray import serve

from benchmarks.loads.http_client import http_client
from benchmarks.servers.cluster import cluster, deployed
from benchmarks.servers.server import port
from pipelines.cluster.local_cluster import HttpAddress

NOTHING, CALL, STREAM = "/nothing", "/call", "/stream"
MAX_ONGOING = 64


@dataclass(frozen=True, slots=True)
class RayFloor:
    """Medians, one request at a time. Seconds. A hop is what a route with it takes longer than one without."""

    http_s: float
    call_s: float
    stream_s: float


class Nothing:
    async def call(self, data: bytes) -> bytes:
        return data

    async def stream(self, data: bytes) -> AsyncIterator[bytes]:
        yield data


@serve.ingress()
class Front:
    def __init__(self, behind: Any) -> None:
        self._behind = behind

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = FastAPI()
        call = self._behind.options(method_name="call")
        stream = self._behind.options(method_name="stream", stream=True)

        @app.get(NOTHING)
        async def nothing() -> str:
            return "ok"

        @app.get(CALL)
        async def called() -> str:
            await call.remote(b"data")
            return "ok"

        @app.get(STREAM)
        async def streamed() -> str:
            async for _ in stream.remote(b"data"):
                pass
            return "ok"

        return app


async def floor(*, count: int) -> RayFloor:
    """Starts a cluster of its own, and stops it."""
    at = port()
    with cluster(HttpAddress("127.0.0.1", at)):
        behind = deployed(Nothing, (), name="nothing", max_ongoing_requests=MAX_ONGOING)
        serve.run(deployed(Front, (behind,), name="front", max_ongoing_requests=MAX_ONGOING), name="floor")
        async with http_client(f"http://127.0.0.1:{at}") as client:
            found: dict[str, list[float]] = {NOTHING: [], CALL: [], STREAM: []}
            for index in range(count + 5):
                for path, seconds in found.items():
                    began = time.monotonic()
                    (await client.get(path)).raise_for_status()
                    if index >= 5:  # the others warm up
                        seconds.append(time.monotonic() - began)
    medians = {path: statistics.median(seconds) for path, seconds in found.items()}
    return RayFloor(medians[NOTHING], medians[CALL] - medians[NOTHING], medians[STREAM] - medians[NOTHING])
