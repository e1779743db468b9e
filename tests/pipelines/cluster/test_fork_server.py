"""Workers that are forks: they run what was asked, as who asked, and without a fork server they run all the same."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.cluster import fork_server

SCRIPT = """
import json, os, signal, sys

def drawn():
    if "ray" in sys.modules:
        return sys.modules["ray"].UniqueID.from_random().hex()

print(json.dumps({
    "name": __name__, "arguments": sys.argv[1:], "folder": os.getcwd(), "asked": os.environ.get("ASKED"),
    "inherited": os.environ.get("NOT_ASKED"), "imported": "ray.serve" in sys.modules, "has_torch": "torch" in sys.modules,
    "parent": os.getppid(), "own": "pipelines.app" in sys.modules,
    "path": sys.path[0], "drawn": drawn(), "child_signals": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL, "given": sys.stdin.read(),
}))
print("to stderr", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture
def node() -> Iterator[subprocess.Popen[bytes]]:
    """What a raylet is to its workers: a process that is alive."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a path that leaves room for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("worker") / "worker.py"
    path.write_text(SCRIPT)
    return path


def run(
    script: Path,
    node: "subprocess.Popen[bytes] | None",
    *arguments: str,
    kind: str = fork_server.WITHOUT_STAGES,
    server: str = fork_server.__file__,
    **environment: str,
) -> dict[str, Any]:
    """What the worker says of itself. It writes to files, as Ray's do: the asking process is gone when it does."""
    settings = {name: value for name, value in os.environ.items() if name != fork_server.RAYLET} | environment
    if node is not None:
        settings[fork_server.RAYLET] = str(node.pid)
    read_end, write_end = os.pipe()
    command = [sys.executable, "-S", "-E", server, kind, str(script), *arguments]
    with os.fdopen(read_end) as said:
        asking = subprocess.Popen(
            command, cwd=script.parent, env=settings, stdin=subprocess.PIPE, stdout=write_end, stderr=subprocess.STDOUT
        )
        os.close(write_end)
        asking.communicate(b"hello")
        lines = said.read().splitlines()  # until the worker, the last to hold the pipe, has ended
    assert lines[-1] == "to stderr"
    found: dict[str, Any] = json.loads(lines[-2])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are ordinary ones")
@pytest.mark.slow
def test_a_worker_is_a_fork_that_is_as_the_asking_process_was_and_the_server_ends_with_its_node(
    script: Path, node: "subprocess.Popen[bytes]", folder: Path
) -> None:
    first = run(script, node, "--one", "two words", ASKED="yes", TMPDIR=str(folder), NOT_ASKED="only the first")
    second = run(script, node, ASKED="again", TMPDIR=str(folder))
    hosts_stages = run(script, node, kind=fork_server.WITH_STAGES, TMPDIR=str(folder))
    assert (first["name"], first["arguments"], first["given"]) == ("__main__", ["--one", "two words"], "hello")
    assert (first["folder"], first["path"]) == (str(script.parent), str(script.parent))
    assert (first["asked"], second["asked"], second["inherited"]) == ("yes", "again", None)
    assert first["imported"]
    assert (first["has_torch"], hosts_stages["has_torch"]) == (False, True)
    assert first["child_signals"]
    assert first["drawn"] != second["drawn"]  # Ray calls its tasks by such numbers
    assert first["parent"] == second["parent"] != os.getpid()
    servers = [psutil.Process(one["parent"]) for one in (first, hosts_stages)]
    assert servers[0] != servers[1]
    node.kill()
    node.communicate()
    for server in servers:
        server.wait(timeout=60)
    assert not [path for path in folder.rglob("*") if not path.is_dir()]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are ordinary ones")
@pytest.mark.slow
def test_code_that_is_the_workers_own_is_imported_before_and_no_longer_once_it_has_changed(
    script: Path, node: "subprocess.Popen[bytes]", folder: Path
) -> None:
    server, app = folder / "pipelines" / "cluster" / "fork_server.py", folder / "pipelines" / "app.py"
    for file in ("pipelines/cluster/fork_server.py", "stages/device/temporary_folder.py"):
        (folder / file).parent.mkdir(parents=True)
        shutil.copy(Path(fork_server.ROOT) / file, folder / file)
    (folder / "pipelines" / "__init__.py").touch()
    app.write_text("import pipelines")
    given = {"TMPDIR": str(folder), fork_server.KNOWS_CODE: "1"}
    known = run(script, node, server=str(server), **given)
    assert (known["imported"], known["own"], known["path"]) == (True, True, str(script.parent))
    assert not run(script, node, server=str(server), **given | {fork_server.KNOWS_CODE: "0"})["own"]
    elsewhere = folder / "elsewhere" / "stages"
    elsewhere.mkdir(parents=True)
    assert not run(script, node, server=str(server), **given, PYTHONPATH=str(elsewhere.parent))["own"]
    assert run(script, node, server=str(server), **given, PYTHONPATH=str(elsewhere))["own"]
    app.write_text("import pipelines, json")
    changed = run(script, node, server=str(server), **given)
    assert (changed["imported"], changed["own"]) == (False, False)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are ordinary ones")
@pytest.mark.slow
def test_triptychs_own_modules_can_be_imported_before_a_fork(
    script: Path, node: "subprocess.Popen[bytes]", folder: Path
) -> None:
    given = {"TMPDIR": str(folder), fork_server.KNOWS_CODE: "1"}
    first, second = (run(script, node, **given) for _ in range(2))
    assert first["own"]
    assert not first["has_torch"]
    assert first["drawn"] != second["drawn"]
    without = run(script, node, **given | {fork_server.KNOWS_CODE: "0"})
    threads = [psutil.Process(one["parent"]).num_threads() for one in (first, without)]
    assert threads[0] == threads[1]  # a thread would be missing in forks


def test_without_a_node_a_worker_is_an_ordinary_process(script: Path) -> None:
    found = run(script, None, "--one", ASKED="yes")
    assert (found["arguments"], found["asked"], found["given"], found["imported"]) == (["--one"], "yes", "hello", False)


TALKS = """
import sys, ray._private.utils as utils
sys.stdout = utils.open_log(int(sys.argv[1]), unbuffered=True, closefd=False)
print(":actor_name:Whoever", flush=True)
print("to stderr", file=sys.stderr)
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a file that takes nothing is Linux's")
def test_a_worker_goes_on_where_what_ray_says_of_it_has_no_room(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(TALKS)
    with open("/dev/full", "w") as full:
        command = [sys.executable, fork_server.__file__, fork_server.ORDINARY, "worker.py", str(full.fileno())]
        done = subprocess.run(command, cwd=tmp_path, pass_fds=[full.fileno()], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "to stderr\n")


def test_what_a_worker_says_is_in_its_file_at_once(tmp_path: Path) -> None:
    with fork_server._open_log(str(tmp_path / "log"), unbuffered=True) as log:
        print("füll", 1, file=log)
        assert (tmp_path / "log").read_text("utf-8") == "füll 1\n"


def test_what_nobody_takes_is_an_error_and_not_lost_without_a_word() -> None:
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    try:
        with pytest.raises(BlockingIOError), fork_server._open_log(writes, unbuffered=True, closefd=False) as log:
            print("x" * 2**20, file=log)
        assert os.read(reads, 2**20)
    finally:
        os.close(reads)
        os.close(writes)


def test_a_folder_that_is_open_to_others_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / f"triptych-workers-{os.getuid()}").mkdir(mode=0o777)
    (tmp_path / f"triptych-workers-{os.getuid()}").chmod(0o777)
    with pytest.raises(PermissionError):
        fork_server.address({fork_server.RAYLET: "1", "TMPDIR": str(tmp_path)})


def test_a_server_is_found_where_the_temporary_folder_is_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {fork_server.RAYLET: "1", "TMPDIR": str(folder)}
    before = fork_server.address(environment)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._get_default_tempdir", lambda: "/var/tmp")  # as where nothing can be written
    assert fork_server.address(environment) == before
    assert Path(before).is_relative_to(folder)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ({}, {"RAY_JOB_ID": "02"}, True),
        ({}, {"EDITOR": "vi"}, True),
        ({}, {"HOME": "/elsewhere"}, False),
        ({}, {"HF_HUB_OFFLINE": "1"}, False),
        ({}, {"PYTHONPATH": "/other/code"}, False),
        ({}, {fork_server.RAYLET: "2"}, False),
        ({}, {fork_server.KNOWS_CODE: "1"}, False),
    ],
)
def test_workers_share_a_server_where_libraries_would_read_the_same_settings(
    one: dict[str, str], other: dict[str, str], shared: bool
) -> None:
    base = {fork_server.RAYLET: "1"}
    assert (fork_server.address(base | one) == fork_server.address(base | other)) == shared
