"""Whether what a deployment's replicas ask for can be had on the nodes of a Ray cluster.

Pure. Knows of a node only its total resources and its labels, under Ray's names; decides nothing: Ray's scheduler does, by what is free.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.settings.derived import Home, capacity
from pipelines.settings.schema.config import INGRESS, AppConfig
from pipelines.settings.schema.deployments import ActorOptions, DeploymentConfig


@dataclass(frozen=True, slots=True)
class Node:
    """`resources`: in all, also what is taken."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Nowhere:
    """A deployment that has no node. `may_sleep`: it needs none until it is asked for."""

    deployment: str
    wanted: str
    may_sleep: bool

    def __str__(self) -> str:
        place = INGRESS if self.deployment == INGRESS else f"deployments.{self.deployment}"
        return (
            f"{place}.ray_actor_options: a replica wants {self.wanted}, which no node of this cluster has: it waits until there is one "
            "(`ray list nodes --detail` shows what nodes have)"
        )


def nowhere(config: AppConfig, nodes: Sequence[Node]) -> Iterator[Nowhere]:
    """Deployments whose replicas have no node even where all of it is free."""
    homes: dict[str, Home] = {INGRESS: config.ingress, **config.placement()}
    for name, home in homes.items():
        options, num_gpus = home.ray_actor_options, capacity(home, config).num_gpus
        wanted = wanted_resources(options, num_gpus)
        if not any(_has(node, wanted, options.label_selector) for node in nodes):
            yield Nowhere(name, _told(wanted, options.label_selector), _may_sleep(home))


def wanted_resources(options: ActorOptions, num_gpus: float) -> Mapping[str, float]:
    """What one replica takes of a node, under the names that Ray's nodes have them."""
    wanted = {"CPU": options.num_cpus, "GPU": num_gpus, "memory": options.memory or 0.0, **options.resources}
    if options.accelerator_type is not None:
        wanted[f"accelerator_type:{options.accelerator_type}"] = 0.001  # as Ray asks for it
    return {name: amount for name, amount in wanted.items() if amount}


def _has(node: Node, wanted: Mapping[str, float], selector: Mapping[str, str]) -> bool:
    enough = all(node.resources.get(name, 0.0) >= amount for name, amount in wanted.items())
    return enough and all(selects(condition, node.labels.get(label)) for label, condition in selector.items())


def selects(condition: str, value: str | None) -> bool:
    """Ray's label selectors: "a", "!a", "in(a, b)", "!in(a, b)". `value`: None where there is no such label, which is never one of them."""
    several = re.fullmatch(r"!?in\((.*)\)", condition)
    among = [name.strip() for name in several[1].split(",")] if several else [condition.removeprefix("!")]
    return (value in among) != condition.startswith("!")


def _told(wanted: Mapping[str, float], selector: Mapping[str, str]) -> str:
    resources = [name if name.startswith("accelerator_type:") else f"{amount:g} {name}" for name, amount in wanted.items()]
    return ", ".join([*resources, *(f"label {label}={condition}" for label, condition in selector.items())]) or "a place"


def _may_sleep(home: Home) -> bool:
    scaling = home.autoscaling_config if isinstance(home, DeploymentConfig) else None
    return scaling is not None and scaling.min_replicas == 0
