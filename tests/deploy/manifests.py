"""What is in deploy/, read as Kubernetes and Triptych read it."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pipelines.settings.config_file import ServeFile, load
from pipelines.settings.overlay import overlaid

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS: Mapping[str, Sequence[Path]] = {
    "cpus": [DEPLOY / "cluster.yaml"],
    "gpus": [DEPLOY / "cluster.yaml", KUBERNETES / "gpus" / "overlay.yaml"],
}
"""Folder of manifests -> what its configuration lays over serve_config.yaml."""


def configured(folder: str) -> ServeFile:
    return load(ROOT / "serve_config.yaml", OVERLAYS[folder])


def rayservice(folder: str) -> dict[str, Any]:
    """As `kubectl kustomize` builds it: of a custom resource, lists are replaced."""
    return overlaid(_read("cpus"), _read(folder))


@cache
def _read(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((KUBERNETES / folder / "rayservice.yaml").read_text())
    return found


def groups(folder: str) -> Sequence[Mapping[str, Any]]:
    """Head first."""
    cluster = rayservice(folder)["spec"]["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def container(group: Mapping[str, Any]) -> Mapping[str, Any]:
    (only,) = group["template"]["spec"]["containers"]
    found: Mapping[str, Any] = only
    return found


def plain_objects() -> Iterator[dict[str, Any]]:
    """Of Kubernetes' own kinds."""
    for name in ("redis.yaml", "network.yaml"):
        yield from yaml.safe_load_all((KUBERNETES / "cpus" / name).read_text())
