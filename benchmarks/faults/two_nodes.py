"""Triptych on a Ray cluster of two nodes on this machine, as a server in a process of its own. Every stage lives in two pools, one on each
node; Redis, which one node would hold, is left out.

`python -m benchmarks.faults.two_nodes --port 8000` serves until Ctrl-C.
"""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from benchmarks.mixed.requests import SEE
from benchmarks.servers.nodes import several_nodes
from benchmarks.servers.triptych import Config, model_of, shipped_config
from pipelines.settings.config_file import HttpConfig, ServeFile, parse
from pipelines.settings.pinning import pinned

HEAD, SECOND = "head", "second"
APPLICATION = "two-nodes"
CPUS = 8  # Ray's figure: every replica has its place, and those that lost theirs, too
OBJECT_STORE_BYTES = 128 * 2**20
DEPLOY_S = 300.0


def of_two_nodes(config: Config) -> dict[str, Any]:
    """The application's `args`: a model's stages share a process, of which each node has one."""
    config = deepcopy(config)
    args = config["applications"][0]["args"]
    model_of(config, SEE)["llm"]["dtype"] = "float32"  # so that an answer is the same beside others, and goes on as it was
    stages: dict[str, list[str]] = {}
    for deployment in args["deployments"].values():
        for stage in deployment["stages"]:
            stages.setdefault(stage.partition(".")[0], []).append(stage)
    deployments = {f"{model}-{node}": _pool(parts, node) for model, parts in stages.items() for node in (HEAD, SECOND)}
    ingress = {"num_replicas": 2}
    return {**args, "deployments": deployments, "cache": {"redis": None, "kv": None}, "ingress": ingress}


def _pool(stages: Sequence[str], node: str) -> Mapping[str, Any]:
    options = {"num_cpus": 0.1, "resources": {node: 0.01}}
    return {"stages": list(stages), "num_replicas": 1, "torch_threads": 1, "ray_actor_options": options}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    stop = threading.Event()
    nodes = [
        {"num_cpus": CPUS, "resources": {name: 1.0}, "object_store_memory": OBJECT_STORE_BYTES} for name in (HEAD, SECOND)
    ]
    with several_nodes(nodes, proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port}):
        from pipelines.cluster.deploy import Rollout

        app = pinned(parse(of_two_nodes(shipped_config())))
        Rollout(ServeFile(http=HttpConfig(), app_name=APPLICATION, app=app), timeout_s=DEPLOY_S).apply()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        stop.wait()


if __name__ == "__main__":
    main()
