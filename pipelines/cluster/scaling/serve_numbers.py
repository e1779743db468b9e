"""How many replicas Ray Serve has of each deployment, and is to have. Decides nothing.

Serve's controller is asked on a thread of its own: it may hang, and can't be stopped.
"""

from collections.abc import Mapping

import ray
from ray.serve._private.common import DeploymentID
from ray.serve.context import _get_global_client

from pipelines.cluster.state import serve_status
from pipelines.planning.scaling.observation import Present
from stages.concurrency.thread_pool import DaemonThreads

RUNNING = ("RUNNING", "RECOVERING", "PENDING_MIGRATION", "UPDATING")
SET_WITHIN_S = 10.0


class ServeNumbers:
    """Of the Serve that this process is in."""

    def __init__(self) -> None:
        self._thread = DaemonThreads("asking Serve's controller", max_threads=1)

    async def present(self) -> Mapping[tuple[str, str], Present]:
        """By application and deployment."""
        return await self._thread.run(present)

    async def set(self, application: str, deployment: str, count: int) -> None:
        await self._thread.run(_set, application, deployment, count)


def present() -> Mapping[tuple[str, str], Present]:
    found = {}
    for name, application in serve_status.applications().items():
        for deployment, status in application.deployments.items():
            found[name, deployment] = _present(status.replica_states)
    return found


def _present(states: Mapping[str, int]) -> Present:
    running = sum(int(states.get(state, 0)) for state in RUNNING)
    return Present(running, int(states.get("STARTING", 0)), int(states.get("STOPPING", 0)))


def _set(application: str, deployment: str, count: int) -> None:
    """Raises where the application isn't there, or scales by itself."""
    controller = _get_global_client()._controller
    ray.get(controller.update_deployment_replicas.remote(DeploymentID(deployment, application), count), timeout=SET_WITHIN_S)
