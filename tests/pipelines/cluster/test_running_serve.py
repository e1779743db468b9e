"""What is told of the Serve that runs, where none does."""

import pytest
import ray
from ray.exceptions import RayError

from pipelines.cluster import running_serve
from pipelines.cluster.state import serve_status
from pipelines.settings.nodes import Node


def test_without_a_cluster_there_are_no_nodes_and_only_this_machine_is_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert (running_serve.nodes(), running_serve.num_nodes()) == ([], 0)
    assert running_serve.listening_host() == "127.0.0.1"


@pytest.mark.parametrize("error", [RuntimeError("no cluster"), RayError("gone")])
def test_a_cluster_that_does_not_tell_its_nodes_has_none(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", fail)
    assert running_serve.nodes() == []


def test_nodes_that_are_gone_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [
        {"Alive": alive, "Resources": {"CPU": cpus}, "Labels": {"zone": "a"}} for alive, cpus in ((True, 2.0), (False, 8.0))
    ]
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: told)
    assert running_serve.nodes() == [Node({"CPU": 2.0}, {"zone": "a"})]


class Client:
    """Of a controller that tells of one application."""

    def get_serve_details(self) -> dict[str, object]:
        replicas = [{"state": "RUNNING"}, {"state": "RUNNING"}, {"state": "STARTING"}]
        deployment = {"status": "UPDATING", "status_trigger": "CONFIG_UPDATE_STARTED", "message": "", "replicas": replicas}
        app = {"status": "DEPLOYING", "message": "m", "last_deployed_time_s": 1.5, "deployments": {"llm": deployment}}
        return {"applications": {"triptych": app}}


def test_replicas_are_counted_by_their_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_status, "_get_global_client", lambda raise_if_no_controller_running: Client())
    (found,) = serve_status.applications().values()
    assert (found.status, found.message, found.last_deployed_time_s) == ("DEPLOYING", "m", 1.5)
    assert found.deployments["llm"].replica_states == {"RUNNING": 2, "STARTING": 1}
    monkeypatch.setattr(serve_status, "_get_global_client", lambda raise_if_no_controller_running: None)
    assert serve_status.applications() == {}
