"""A stage in several pools on a Ray cluster of two unlike nodes: where each pool's replicas are, and that pools come, go and change while
requests come, none of which fails."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.cluster.live_cluster import (
    changed,
    deploy,
    embedder,
    processes,
    ray_nodes,
    replicas,
    requests,
    status_of,
)
from tests.cluster.server import WAIT_S, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of Serve's proxy."""
    near = {"num_cpus": 2, "labels": {"rack": "near"}}
    with ray_nodes(
        near, {"num_cpus": 2, "labels": {"rack": "far"}, "resources": {"paint": 4, "accelerator_type:L4": 1}}
    ) as port:
        yield port


def racks(deployment: str) -> list[str]:
    """Of the nodes that a deployment's replicas run on."""
    import ray

    labels = {node["NodeID"]: node["Labels"]["rack"] for node in ray.nodes()}
    return [labels[replica["node_id"]] for name, replica in replicas() if name == deployment and replica["state"] == "RUNNING"]


def pools_of(port: int, model: str) -> dict[str, tuple[str, bool]]:
    """Deployment -> dtype, and whether it is ready, as GET /v1/models tells them."""
    entry = httpx.get(f"http://127.0.0.1:{port}/v1/models/{model}", timeout=WAIT_S, trust_env=False).json()
    return {stage["deployment"]: (stage["dtype"], stage["ready"]) for stage in entry["triptych"]["stages"]}


def test_a_stages_pools_come_go_and_change_and_fail_no_request(port: int) -> None:
    args: dict[str, Any] = {
        "models": {"one": embedder()},
        "deployments": {},
        "cache": {"redis": None},
        "fork_server": False,  # replicas that need no model library are up sooner as what the cluster starts
    }
    near = {"stages": ["one.embedder"], "ray_actor_options": {"label_selector": {"rack": "near"}}}
    far = {
        "stages": ["one.embedder"],
        "num_replicas": 2,
        "ray_actor_options": {"accelerator_type": "L4", "resources": {"paint": 1}},
    }
    args = changed(args, lambda new: new["deployments"].update(near=near))
    deploy(args)
    before = processes()

    # one comes, elsewhere and in a dtype of its own
    in_half = far | {"overrides": {"one.embedder": {"dtype": "bfloat16", "batch": {"max_items": 4}}}}
    args = changed(args, lambda new: new["deployments"].update(far=in_half))
    with requests(port, "one"):
        deploy(args)
    both = processes()
    assert both == before | {"far": both["far"]}
    assert (racks("near"), racks("far")) == (["near"], ["far", "far"])
    eventually(lambda: pools_of(port, "one") == {"near": ("auto", True), "far": ("bfloat16", True)}, "both pools are told")

    # it changes its dtype: it alone starts anew
    args = changed(args, lambda new: new["deployments"].update(far=far))
    with requests(port, "one"):
        deploy(args)
    again = processes()
    assert again["far"].isdisjoint(both["far"])
    assert again == both | {"far": again["far"]}

    # the first one goes: what it was asked is answered, and the other is asked from then on
    args = changed(args, lambda new: new["deployments"].pop("near"))
    with requests(port, "one"):
        deploy(args)
    left = processes()
    assert left == {name: pids for name, pids in again.items() if name != "near"}
    assert list(pools_of(port, "one")) == ["far"]
    assert status_of(port, model="one", input="a") == 200
