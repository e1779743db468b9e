"""What Ray says of its nodes, as devices to plan for."""

from typing import Any

import pytest

from pipelines.cluster.state.inventory import devices_of
from stages.contract.errors import ConfigurationError


def node(resources: dict[str, float], labels: dict[str, str] | None = None, *, alive: bool = True) -> dict[str, Any]:
    labels = {"ray.io/node-id": "ab", **(labels or {})}
    return {"Alive": alive, "NodeManagerAddress": "127.0.0.1", "Labels": labels, "Resources": resources}


def gpus(count: float, cpus: float, kind: str = "L4") -> dict[str, Any]:
    return node({"GPU": count, "CPU": cpus, "memory": 1e9, f"accelerator_type:{kind}": 1.0})


def cpus(count: float, memory: float, **labels: str) -> dict[str, Any]:
    return node({"CPU": count, "memory": memory}, labels)


def test_gpus_of_one_type_are_counted_over_all_nodes() -> None:
    h100, l4 = devices_of([gpus(4, 48), gpus(2, 16), gpus(8, 96, "H100")])
    assert (l4.name, l4.count, l4.per_node, l4.memory_bytes) == ("L4", 6, 4, 24e9)
    assert l4.cpus_per_node / l4.per_node == 8  # of the node that has the least for each
    assert l4.found_by == {"accelerator_type": "L4"}
    assert (h100.name, h100.count, h100.num_nodes) == ("H100", 8, 1)


def test_nodes_without_gpus_are_told_apart_by_the_labels_that_somebody_gave_them() -> None:
    nodes = [cpus(2, 4e9, speed="slow"), cpus(2, 8e9, speed="fast"), cpus(4, 6e9, speed="slow")]
    fast, slow = devices_of(nodes)
    assert (slow.name, slow.count, slow.cpus_per_node, slow.memory_bytes) == ("cpu-slow", 2, 2, 4e9)
    assert slow.found_by == {"label_selector": {"speed": "slow"}}
    assert (fast.model, fast.is_gpu) == ("cpu", False)


def test_nodes_that_have_gone_count_for_nothing() -> None:
    (only,) = devices_of([cpus(2, 4e9), node({"CPU": 2, "memory": 4e9}, alive=False)])
    assert (only.name, only.count, only.found_by) == ("cpu", 1, {})


def test_gpus_that_nothing_is_known_of_ask_for_an_inventory() -> None:
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1 has GPUs whose type Ray doesn't know; write an inventory"):
        devices_of([node({"GPU": 1, "CPU": 8})])
    with pytest.raises(ConfigurationError, match="no datasheet of 'X9' is known"):
        devices_of([gpus(1, 8, "X9")])
