"""A Ray cluster of several nodes on this machine, configurations that are deployed on it as `triptych deploy` does, but for what is in a
stage's replica (`tests/cluster/fake_stages.py`), and clients that ask it without a pause."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import httpx

from pipelines.cluster.fork_server import command
from pipelines.free_port import free_port
from pipelines.settings.config_file import HttpConfig, ServeFile, parse
from pipelines.settings.pinning import pinned
from pipelines.settings.serve.applications import STAGES_BUILDER
from pipelines.settings.serve.rollout import Document
from tests.cluster.server import PATIENT, WAIT_S, eventually

APP = "live"
STEP_S = 400
"""What a step of a roll-out may take on a slow machine, three tries of a replica that never starts included."""
ON_THEIR_WAY = ("STARTING", "UPDATING", "RECOVERING")


def embedder() -> dict[str, Any]:
    return {"pipeline": "embed", "embedder": {"source": {"demo": "clip"}}}


@contextmanager
def ray_nodes(*nodes: Mapping[str, Any]) -> Iterator[int]:
    """A Ray cluster on this machine with Serve, of these nodes (`num_cpus`, `resources`, `labels`); the port of Serve's proxy."""
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    head, *others = nodes
    cluster = Cluster(initialize_head=True, head_node_args={**head, "include_dashboard": False})
    try:
        for node in others:
            cluster.add_node(**node)
        environment = {"py_executable": command(stages=False)}
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error", runtime_env=environment)
        port = free_port()
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        yield port
        serve.shutdown()
    finally:
        ray.shutdown()
        cluster.shutdown()


def deploy(args: Mapping[str, Any], builder: str = "tests.cluster.fake_stages:stages") -> None:
    """As `triptych deploy` does, but for what is in a stage's replica."""
    from pipelines.cluster.deploy import Rollout

    class WithFakeStages(Rollout):
        def wanted(self) -> Sequence[Document]:
            return [_with_fakes(document, builder) for document in super().wanted()]

    WithFakeStages(ServeFile(http=HttpConfig(), app_name=APP, app=pinned(parse(args))), timeout_s=STEP_S).apply()


def _with_fakes(document: Document, builder: str) -> Document:
    return {**document, "import_path": builder} if document["import_path"] == STAGES_BUILDER else document


def processes() -> dict[str, set[int]]:
    """Deployment -> its replicas' processes, once none is on its way: a controller that has just been replaced hears from them first."""
    found: list[tuple[str, Mapping[str, Any]]] = []

    def settled() -> bool:
        found[:] = replicas()
        return not any(replica["state"] in ON_THEIR_WAY for _, replica in found)

    eventually(settled, "the controller knows its replicas")
    pids: dict[str, set[int]] = {}
    for name, replica in found:
        pids.setdefault(name, set()).update([replica["pid"]] if replica["state"] == "RUNNING" else [])
    return pids


def replicas() -> Sequence[tuple[str, Mapping[str, Any]]]:
    """With the names of their deployments."""
    from ray.serve.context import _get_global_client

    applications = _get_global_client().get_serve_details()["applications"].values()
    return [
        (name, replica)
        for app in applications
        for name, deployment in app["deployments"].items()
        for replica in deployment["replicas"]
    ]


def nodes() -> set[str]:
    """That replicas run on."""
    return {replica["node_id"] for _, replica in replicas()}


class Clients:
    """Ask one model after the other, one request each at a time, until told to stop."""

    def __init__(self, url: str, models: Sequence[str], headers: Mapping[str, str]) -> None:
        self._url, self._headers = url, {**PATIENT, **headers}
        self._stopping = threading.Event()
        self.answers: dict[str, list[int]] = {model: [] for model in models}
        self._threads = [threading.Thread(target=self._ask, args=(model,)) for model in models]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, model: str) -> None:
        with httpx.Client(base_url=self._url, timeout=WAIT_S, trust_env=False, headers=self._headers) as client:
            while not (self.answers[model] and self._stopping.is_set()):
                text = f"{model} {len(self.answers[model])}"
                answer = client.post("/v1/embeddings", json={"model": model, "input": text})
                self.answers[model].append(answer.status_code)
                self._stopping.wait(0.05)


@contextmanager
def requests(port: int, *models: str, key: str | None = None) -> Iterator[Clients]:
    """While the block runs, requests come; none may fail, and each model is asked."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    clients = Clients(f"http://127.0.0.1:{port}", models, headers)
    clients.start()
    try:
        yield clients
    finally:
        clients.stop()
    assert {model: set(codes) for model, codes in clients.answers.items()} == {model: {200} for model in models}


def status_of(port: int, key: str | None = None, **body: Any) -> int:
    headers = {**PATIENT, **({"authorization": f"Bearer {key}"} if key else {})}
    url = f"http://127.0.0.1:{port}/v1/embeddings"
    return httpx.post(url, json=body, timeout=WAIT_S, trust_env=False, headers=headers).status_code


def changed(args: Mapping[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    copy = deepcopy(dict(args))
    change(copy)
    return copy
