"""Which processes of this machine are a server's."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.servers.parts import MARK, Server
from benchmarks.servers.processes import replicas, titled

APP = f"app{uuid.uuid4().hex}"
WAIT = "import sys; print('up', flush=True); sys.stdin.read()"


@contextmanager
def running(*words: str, mark: str = "") -> Iterator[int]:
    """A process whose command line ends with these."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAIT, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, MARK: mark},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield process.pid
    finally:
        process.stdin.close()
        process.wait(timeout=30)
        process.stdout.close()


@pytest.mark.parametrize(
    ("title", "is_one"),
    [
        ("ray::ServeReplica:{app}:llm", True),
        ("ray::ServeReplica:{app}-llm-8f3a:llm", True),
        ("ray::ServeReplica:{app}-llm-8f3a:llm.stream", True),
        ("ray::ServeReplica:{app}:llm-2", False),
        ("ray::ServeReplica:{app}x:llm", False),
        ("ray::ServeReplica:{app}-vae-1:vae", False),
    ],
)
def test_replicas_are_found_by_application_and_deployment(title: str, is_one: bool) -> None:
    title = title.format(app=APP)
    with running(title) as pid:
        assert [process.pid for process in replicas(APP, "llm")] == ([pid] if is_one else [])
        assert [process.pid for process in titled(title)] == [pid]


def test_only_what_bears_the_servers_own_mark_is_its() -> None:
    server = Server("", APP, mark=uuid.uuid4().hex)
    with running(f"{APP} ProxyActor", mark=server.mark) as ours, running(f"{APP} ProxyActor", mark="another's"):
        assert [process.pid for process in server.named("ProxyActor")] == [ours]
        assert server.named("ServeController") == []


def test_a_node_is_its_raylet_and_all_that_it_has_started() -> None:
    server = Server("", APP, mark=uuid.uuid4().hex)
    with running("raylet/raylet", "--resources=second,1.0", mark=server.mark) as second:
        with running("raylet/raylet", "--resources=head,1.0", mark=server.mark):
            assert [process.pid for process in server.node("second")] == [second]
