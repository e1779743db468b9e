"""How Serve's applications and deployments are doing, by its controller's own word. Decides nothing.

`serve.status()` tells the same, and makes objects of all that the controller says on the way, among them the routers of all
deployments, each pickled anew: 10 ms of CPU for each deployment, every time.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ray.serve._private.common import ReplicaState
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatusOverview, DeploymentStatusOverview


def applications() -> Mapping[str, ApplicationStatusOverview]:
    """By name; none where no Serve runs. Waits for the controller, which may hang."""
    client = _get_global_client(raise_if_no_controller_running=False)
    told = client.get_serve_details()["applications"] if client is not None else {}
    return {name: _application(app) for name, app in told.items()}


def _application(told: Mapping[str, Any]) -> ApplicationStatusOverview:
    return ApplicationStatusOverview(
        status=told["status"],
        message=told["message"],
        last_deployed_time_s=told["last_deployed_time_s"],
        deployments={name: _deployment(found) for name, found in told["deployments"].items()},
    )


def _deployment(told: Mapping[str, Any]) -> DeploymentStatusOverview:
    return DeploymentStatusOverview(
        status=told["status"],
        status_trigger=told["status_trigger"],
        replica_states=dict(Counter(ReplicaState(replica["state"]).value for replica in told["replicas"])),
        message=told["message"],
    )
