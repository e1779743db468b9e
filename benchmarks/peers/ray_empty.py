"""Ray Serve with deployments that do nothing: what any application of as many parts takes while idle.

`python -m benchmarks.peers.ray_empty --port 8000 --deployments 8` serves until Ctrl-C.
"""

from __future__ import annotations

import argparse
import signal
import threading

from fastapi import FastAPI
from ray import serve

from benchmarks.servers.cluster import cluster, deployed
from pipelines.cluster.local_cluster import HttpAddress


class Empty: ...


@serve.ingress()
class Front:
    def __init__(self, *behind: object) -> None:
        self._behind = behind

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = FastAPI()

        @app.get("/health")
        async def health() -> str:
            return "ok"

        return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--deployments", type=int, required=True, help="the HTTP surface is one of them")
    given = parser.parse_args()
    with cluster(HttpAddress("127.0.0.1", given.port)):
        behind = [
            deployed(Empty, (), name=f"empty-{index}", max_ongoing_requests=16) for index in range(given.deployments - 1)
        ]
        serve.run(deployed(Front, behind, name="front", max_ongoing_requests=16), name="empty")
        stop = threading.Event()
        signal.signal(signal.SIGINT, lambda number, frame: stop.set())
        stop.wait()


if __name__ == "__main__":
    main()
