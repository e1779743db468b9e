"""A Ray cluster of several nodes on this machine, with Serve, for what a benchmark deploys on it. Decides how Ray and Serve are started:
with the product's settings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pipelines.cluster import local_cluster
from pipelines.cluster.fork_server import command


@contextmanager
def several_nodes(nodes: Sequence[Mapping[str, Any]], **serve_options: Any) -> Iterator[None]:
    """Ray and Serve run while inside, and this process is Ray's driver. `nodes`: of each what Ray is told (`num_cpus`, `resources`), the
    head first."""
    local_cluster._stay_on_loopback()
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.25")
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    head, *others = nodes
    cluster = Cluster(initialize_head=True, head_node_args={**head, "include_dashboard": False})
    try:
        for node in others:
            cluster.add_node(**node)
        environment = {"py_executable": command(stages=False)}
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error", runtime_env=environment)
        local_cluster._tell_errors_only()
        serve.start(**serve_options)
        yield
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()
