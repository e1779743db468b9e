"""A plan for the two unlike nodes that a running Ray cluster has, applied to it while requests come: its pools take over, and no request
fails."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pipelines.cluster.state.inventory import running_devices
from pipelines.planning.fleet import Demand, Fleet, Measured, RequestClass, Rules
from pipelines.planning.planner import plan
from pipelines.planning.serve_file import deployments
from pipelines.settings.config_file import parse
from stages.contract.cost import Speed, StepTimes
from stages.contract.work import Work
from tests.cluster.live_cluster import changed, deploy, embedder, nodes, processes, ray_nodes, replicas, requests

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

STAGE = "one.embedder"
KINDS = {"cpu-near": 1.0, "cpu-far": 3.0}  # a type of device, and by how much it is slower


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ray_nodes(*({"num_cpus": 4, "labels": {"speed": name.removeprefix("cpu-")}} for name in KINDS)) as port:
        yield port


def planned(args: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """The deployments of the best plan for the nodes that there are."""
    devices = running_devices("auto")
    assert {(device.name, device.count, device.cpus_per_node) for device in devices} == {(name, 1, 4.0) for name in KINDS}
    measured = {
        (STAGE, name): Measured(Speed(StepTimes(((1.0, slower), (2.0, 1.5 * slower))), 4, 4.0, is_one_shot=True))
        for name, slower in KINDS.items()
    }
    asked = (RequestClass("embed", 1.0, (Demand(STAGE, Work(1.0)),)),)
    found = plan(Fleet((STAGE,), devices, measured, asked), Rules(replicas=2))
    return deployments(found, devices, parse(args), 2)


def test_a_plan_is_applied_while_requests_come_and_fails_none(port: int) -> None:
    args: dict[str, Any] = {
        "models": {"one": embedder()},
        "deployments": {"everywhere": {"stages": [STAGE], "num_replicas": 1}},
        "cache": {"redis": None},
        "fork_server": False,  # replicas that need no model library are up sooner as what the cluster starts
    }
    deploy(args)
    assert "everywhere" in processes()
    pools = planned(args)
    speeds = {pool["ray_actor_options"]["label_selector"]["speed"] for pool in pools.values()}
    assert speeds == {name.removeprefix("cpu-") for name in KINDS}
    with requests(port, "one"):
        deploy(changed(args, lambda new: new.update(deployments=pools)))
    running = processes()
    assert {name: len(running[name]) for name in pools} == {name: pool["num_replicas"] for name, pool in pools.items()}
    assert not running.get("everywhere")
    assert len({replica["node_id"] for name, replica in replicas() if name in pools}) == len(nodes()) == 2
