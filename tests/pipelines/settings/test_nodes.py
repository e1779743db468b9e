"""Deployments that no node of a cluster has room for are told before anybody waits for them."""

from typing import Any

import pytest

from pipelines.settings.config_file import parse
from pipelines.settings.nodes import Node, nowhere, selects
from pipelines.settings.schema.config import AppConfig

HEAD = Node({"CPU": 4.0, "memory": 8e9}, {"rack": "a"})
L4 = Node({"CPU": 8.0, "GPU": 1.0, "accelerator_type:L4": 1.0}, {"rack": "b", "market": "spot"})


def config(*, scaling: dict[str, Any] | None = None, **options: Any) -> AppConfig:
    pool: dict[str, Any] = {"stages": ["m.embedder"], "ray_actor_options": options}
    if scaling is not None:
        pool["autoscaling_config"] = scaling
    return parse(
        {"models": {"m": {"pipeline": "embed", "embedder": {"source": {"demo": "clip"}}}}, "deployments": {"pool": pool}}
    )


def told(given: AppConfig, *nodes: Node) -> list[str]:
    return [each.deployment for each in nowhere(given, nodes)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_gpus": 0.5, "accelerator_type": "L4"},
        {"num_cpus": 8},
        {"memory": 4e9},
        {"label_selector": {"rack": "a"}},
        {"label_selector": {"rack": "in(b, c)", "market": "spot"}},
        {"label_selector": {"market": "!spot"}},
    ],
    ids=str,
)
def test_what_one_node_has_is_nothing_to_tell(options: dict[str, Any]) -> None:
    assert told(config(**options), HEAD, L4) == []


@pytest.mark.parametrize(
    "options",
    [
        {"num_gpus": 1, "accelerator_type": "A100"},
        {"num_cpus": 12},
        {"resources": {"paint": 1}},
        {"label_selector": {"rack": "c"}},
        {"label_selector": {"rack": "a", "market": "spot"}},
        {"num_gpus": 1, "label_selector": {"rack": "a"}},
    ],
    ids=str,
)
def test_what_no_single_node_has_is_told(options: dict[str, Any]) -> None:
    assert told(config(**options), HEAD, L4) == ["pool"]


def test_it_is_told_what_is_wanted_and_where_that_is_set() -> None:
    (found,) = nowhere(config(num_gpus=0.5, accelerator_type="A100", label_selector={"rack": "b"}), [HEAD, L4])
    assert str(found).startswith(
        "deployments.pool.ray_actor_options: a replica wants 0.1 CPU, 0.5 GPU, accelerator_type:A100, label rack=b, which no node"
    )
    assert not found.may_sleep


def test_who_may_sleep_needs_no_node_yet() -> None:
    (found,) = nowhere(config(num_gpus=1, scaling={"min_replicas": 0, "max_replicas": 2}), [HEAD])
    assert found.may_sleep


def test_the_surface_needs_a_place_too() -> None:
    assert told(config(num_cpus=0), Node({"CPU": 0.05})) == ["ingress"]


@pytest.mark.parametrize(
    ("condition", "value", "selected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", None, False),
        ("!a", "b", True),
        ("!a", None, True),
        ("!a", "a", False),
        ("in(a, b)", "b", True),
        ("in(a,b)", "c", False),
        ("!in(a, b)", "b", False),
        ("!in(a, b)", None, True),
        ("inside", "inside", True),
    ],
)
def test_labels_are_selected_as_ray_selects_them(condition: str, value: str | None, selected: bool) -> None:
    assert selects(condition, value) == selected
