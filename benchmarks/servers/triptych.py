"""Triptych as a person serves it: `triptych serve` with a configuration, in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from benchmarks.reporting.report import ROOT
from benchmarks.servers.server import module, port, serving

Config = dict[str, Any]
"""A `serve_config.yaml`, parsed."""


def shipped_config() -> Config:
    config: Config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    return config


def only(config: Config, model: str) -> Config:
    """The configuration with one model, and the deployments of its stages."""
    config = deepcopy(config)
    args = config["applications"][0]["args"]
    args["models"] = {model: args["models"][model]}
    args["deployments"] = {
        name: deployment
        for name, deployment in args["deployments"].items()
        if all(stage.startswith(f"{model}.") for stage in deployment["stages"])
    }
    return config


def model_of(config: Config, model: str) -> Config:
    found: Config = config["applications"][0]["args"]["models"][model]
    return found


def fixed(config: Config, deployment: str, **settings: object) -> None:
    """Sets a deployment to these settings, with no scaling; one replica, unless they say otherwise."""
    deployments = config["applications"][0]["args"]["deployments"]
    kept = {name: value for name, value in deployments[deployment].items() if name != "autoscaling_config"}
    deployments[deployment] = kept | {"num_replicas": 1} | settings


def in_one_replica(config: Config, *, torch_threads: int) -> Config:
    """The configuration with every stage in the HTTP surface's own replica, one of which there is."""
    config = deepcopy(config)
    args = config["applications"][0]["args"]
    stages = [stage for deployment in args["deployments"].values() for stage in deployment["stages"]]
    args |= {"deployments": {}, "ingress": {"stages": stages, "torch_threads": torch_threads}}
    return config


@contextmanager
def served(config: Config, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yields the address, once every stage is ready. `env`: of the server and all that it starts."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        path = Path(folder) / "serve_config.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        at = port()
        command = [*module("pipelines.cli"), "serve", "--config", str(path), "--port", str(at)]
        with serving(command, port=at, ready="/ready", env=env) as url:
            yield url
