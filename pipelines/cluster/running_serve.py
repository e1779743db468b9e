"""The Ray Serve that runs: what it was told to run, how that is doing, and how to tell it otherwise. Decides nothing."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve._private import constants
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatusOverview, ServeDeploySchema

from pipelines.cluster.scaling.serve_numbers import present
from pipelines.cluster.state import serve_status
from pipelines.cluster.state.metrics_table import SettingsInUse
from pipelines.settings.nodes import Node
from pipelines.settings.serve.applications import METRICS
from pipelines.settings.serve.rollout import Document
from pipelines.settings.serve.scaled import bare, filled
from pipelines.settings.ways_in import DIRECT_INGRESS, HA_PROXY
from stages.contract.message import readable_values

HOST_WITHOUT_SERVE = "127.0.0.1"
ASK_EVERY_S = 0.25
ANSWER_WITHIN_S = 10.0


def listening_host() -> str:
    """What the HTTP proxies of the Serve that runs listen on: settled by whoever started it, whatever a later config says. Loopback where
    none runs."""
    client = _get_global_client(raise_if_no_controller_running=False) if ray.is_initialized() else None
    return str(client.http_config.host) if client is not None else HOST_WITHOUT_SERVE


def ways_in() -> Mapping[str, bool]:
    """Whether Serve, by this process's environment, has clients come in otherwise than through its own proxies."""
    return {HA_PROXY: constants.RAY_SERVE_ENABLE_HA_PROXY, DIRECT_INGRESS: constants.RAY_SERVE_ENABLE_DIRECT_INGRESS}


def nodes() -> Sequence[Node]:
    """Of the Ray cluster that this process is connected to; none where it is to none, or Ray doesn't tell."""
    with suppress(RayError, RuntimeError):
        alive = [node for node in ray.nodes() if node["Alive"]] if ray.is_initialized() else []
        return [Node(node["Resources"], node["Labels"]) for node in alive]
    return []


def num_nodes() -> int:
    """Of the same."""
    return len(nodes())


class RunningServe:
    """Of the Ray cluster that this process is connected to."""

    def applications(self) -> Sequence[Document]:
        """Those that Serve was given in a config, without the numbers that are the scaler's. Those given in code are not told."""
        found = _get_global_client().get_serve_details()["applications"].values()
        return bare([app["deployed_app_config"] for app in found if app.get("deployed_app_config")])

    def status(self) -> Mapping[str, ApplicationStatusOverview]:
        """By application."""
        return serve_status.applications()

    def configure(self, config: Mapping[str, Any]) -> None:
        """A whole Serve config: what was given in an earlier one and is not in this one ends. What is scaled keeps its numbers."""
        live = {address: each.running + each.starting for address, each in present().items()}
        whole = {**config, "applications": filled(config["applications"], live)}
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(whole))

    def settings_in_use(self, surface: str) -> Mapping[str, SettingsInUse]:
        """Of the HTTP surface's replicas. `surface`: its application. None known: the table is being replaced."""
        table = serve.get_deployment_handle(METRICS, surface)
        try:
            found: dict[str, SettingsInUse] = table.settings.remote().result(timeout_s=ANSWER_WITHIN_S)
        except (RayError, RayServeException, TimeoutError):
            return {}
        return readable_values(found)

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()

    def pause(self) -> None:
        """Until it is worth asking again."""
        time.sleep(ASK_EVERY_S)
