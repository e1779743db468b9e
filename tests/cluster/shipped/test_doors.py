"""Which doors a served Triptych has, and for whom they open: the sockets of `triptych serve`, what its proxy lets through, and that no
way of deploying opens one to strangers where there are no keys."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import httpx
import psutil
import pytest

from pipelines.free_port import free_port
from pipelines.ingress.proxy.bounded_connection import MAX_HEAD_BYTES
from pipelines.settings.config_file import IMPORT_PATH
from pipelines.settings.loopback import is_loopback
from tests.cluster.server import WAIT_S, Server, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def listening(server: Server) -> Iterator[tuple[str, str, int]]:
    """(address, name of the process, port) of every socket that `triptych serve`, its Ray and its replicas listen on."""
    ours = server.processes()
    for connection in psutil.net_connections("tcp"):
        if connection.laddr and connection.status == psutil.CONN_LISTEN and connection.pid in ours:
            with suppress(psutil.NoSuchProcess):  # it has just ended
                yield connection.laddr.ip, ours[connection.pid].name(), connection.laddr.port


def test_everything_of_ray_but_the_replicas_own_ports_is_on_loopback(server: Server) -> None:
    found = list(listening(server))
    assert {"gcs_server", "raylet"} <= {name for _, name, _ in found}
    elsewhere = [(address, name) for address, name, _ in found if not is_loopback(address)]
    assert elsewhere
    assert [name for _, name in elsewhere if not name.startswith("ray::")] == []


def test_the_replicas_own_ports_ask_for_rays_token(server: Server) -> None:
    ports = [port for address, _, port in listening(server) if not is_loopback(address)]
    for port in ports:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary("/ray.serve.ASGIService/HandleRequest")(b"", timeout=120)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("path", ["/", "/v1/models", "/metrics", "/openapi.json", "/health", "/-/routes", "/no/such"])
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"x-forwarded-for": "8.8.8.8"},
    ],
)
def test_strangers_are_not_answered_through_serves_proxy(server: Server, path: str, headers: dict[str, str]) -> None:
    assert server.http.get(path, headers=headers).status_code == 403


def test_serves_list_of_applications_is_nobodys(server: Server) -> None:
    assert server.http.get("/-/routes").status_code == 404
    assert server.http.get("/-/healthz").status_code == 200


def test_a_websocket_is_refused(server: Server) -> None:
    headers = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    assert server.http.get("/v1/chat/completions", headers=headers).status_code == 403


def test_heads_are_bounded_in_serves_proxy(server: Server) -> None:
    assert server.http.get("/health", headers={"x": "a" * (MAX_HEAD_BYTES + 1)}).status_code == 431


@pytest.fixture(scope="module")
def open_port() -> Iterator[int]:
    """Of a Serve that listens on all addresses."""
    import ray
    from ray import serve

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    port = free_port()
    serve.start(proxy_location="HeadOnly", http_options={"host": "0.0.0.0", "port": port})
    yield port
    serve.shutdown()
    ray.shutdown()


def deployed(config: dict[str, Any]) -> str:
    """As `serve deploy` does; the application's state once that is settled, and what Serve says of it."""
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    from pipelines.cluster.state import serve_status

    _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config))
    settled = ("RUNNING", "DEPLOY_FAILED", "UNHEALTHY")
    eventually(lambda: serve.status().applications["triptych"].status.value in settled, "settled", 240)
    eventually(lambda: serve_status.applications() == serve.status().applications, "told alike", 30)
    status = serve.status().applications["triptych"]
    return f"{status.status.value}: {status.message}"


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # Ray leaves its processes to a reaper of its own
def test_serve_deploy_refuses_an_application_without_keys_where_serve_listens_to_strangers(open_port: int) -> None:
    models = {"clip": {"pipeline": "embed", "embedder": {"source": {"demo": "clip"}}}}
    args = {"models": models, "cache": {"redis": None}, "fork_server": False}
    app = {"name": "triptych", "route_prefix": "/", "import_path": IMPORT_PATH, "args": args}
    told = deployed({"applications": [app]})
    assert told.startswith("DEPLOY_FAILED")
    assert "host '0.0.0.0' is not loopback, and auth.keys is empty" in told
    with socket.socket() as probe:
        probe.connect(("127.0.0.1", open_port))
    assert httpx.get(f"http://127.0.0.1:{open_port}/v1/models", timeout=WAIT_S, trust_env=False).status_code == 404
