"""How many replicas there are, by the states that Serve's controller tells. On a real controller: `tests/cluster/shipped/test_doors.py`."""

import pytest
from ray.serve._private.common import ReplicaState
from ray.serve.schema import ApplicationStatusOverview, DeploymentStatusOverview

from pipelines.cluster.scaling.serve_numbers import RUNNING, ServeNumbers
from pipelines.cluster.state import serve_status
from pipelines.planning.scaling.observation import Present


def application(**states: dict[str, int]) -> ApplicationStatusOverview:
    deployments = {
        name: DeploymentStatusOverview("HEALTHY", "CONFIG_UPDATE_COMPLETED", found, "") for name, found in states.items()
    }
    return ApplicationStatusOverview("RUNNING", "", 0.0, deployments)


async def test_what_serves_counts_as_running_also_while_it_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "triptych": application(app={"RUNNING": 1}),
        "llm": application(llm={"RUNNING": 2, "UPDATING": 1, "RECOVERING": 1, "STARTING": 3, "STOPPING": 4}, idle={}),
    }
    monkeypatch.setattr(serve_status, "applications", lambda: found)
    assert await ServeNumbers().present() == {
        ("triptych", "app"): Present(1, 0, 0),
        ("llm", "llm"): Present(4, 3, 4),
        ("llm", "idle"): Present(0, 0, 0),
    }


def test_every_state_of_serves_is_counted_once_but_that_of_a_replica_that_is_gone() -> None:
    assert sorted((*RUNNING, "STARTING", "STOPPING", "STOPPED")) == sorted(state.value for state in ReplicaState)
