"""docs/ray-cluster.md's commands, run as they stand but for addresses, ports and paths: a Ray cluster of two nodes on this machine, with
tokens, and Triptych on it with keys. Its models are one small one."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory  # a socket's path has few letters

import httpx
import psutil
import pytest
import yaml
from ray.util import get_node_ip_address

from pipelines.free_port import free_port
from tests.cluster.server import ROOT, WAIT_S, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SMALL = {
    "models": {"$patch": "replace", "clip": {"pipeline": "embed", "embedder": {"source": {"demo": "clip"}}}},
    "deployments": {"$patch": "replace"},
}
OWN, OTHER = get_node_ip_address(), "127.0.0.2"
"""The machine's address in its network, as on a real cluster, and a second one that reaches no further."""
LEAN = "--num-cpus=4 --object-store-memory=100000000 --block"


class Page:
    """The page's commands, for this machine."""

    def __init__(self, folder: Path, ray_folder: Path) -> None:
        self._ray_folder = ray_folder
        self.folder, self.ray, self.http = folder, free_port(), free_port()
        self._second = str(free_port())
        self.url = f"http://127.0.0.1:{self.http}"
        overlay = (ROOT / "deploy" / "cluster.yaml").read_text()
        (folder / "cluster.yaml").write_text(self._here(overlay))
        args = {"http_options": {"port": self.http}, "applications": [{"name": "triptych", "args": SMALL}]}
        (folder / "small.yaml").write_text(yaml.safe_dump(args))
        text = (ROOT / "docs" / "ray-cluster.md").read_text()
        lines = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines()
        self._lines = [self._here(line) for line in lines]
        self.exported = " && ".join(line for line in self._lines if line.startswith("export "))

    def _here(self, text: str) -> str:
        overlays = f"{self.folder}/cluster.yaml --overlay {self.folder}/small.yaml"
        text = text.replace("10.0.0.1:8000", f"127.0.0.1:{self.http}").replace("10.0.0.1", OWN).replace("10.0.0.2", OTHER)
        text = text.replace("--overlay deploy/cluster.yaml", f"--overlay {overlays}")
        text = text.replace(":6379", f":{self.ray}").replace("--port=6379", f"--port={self.ray}")
        return text.replace("/etc/triptych", f"{self.folder}/secrets").replace(".sh secrets", f".sh {self.folder}/secrets")

    def of(self, beginning: str) -> str:
        (line,) = [line for line in self._lines if line.startswith(beginning)]
        return line

    def environment(self) -> dict[str, str]:
        """As a login shell has it, but that a second proxy on the same machine needs a port of its own, and other commands of Ray's on it
        hear nothing of this cluster."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return plain | {"TEST_WORKER_NODE_HTTP_PORT": self._second, "RAY_TMPDIR": str(self._ray_folder)}

    def run(self, line: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", f"{self.exported}; {line}"],
            cwd=ROOT,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def running(self, line: str) -> Iterator[None]:
        """A node, from `ray start`."""
        log = (self.folder / "ray.log").open("a")
        shell = ["bash", "-euc", f"{self.exported}; exec {line} {LEAN}"]
        node = subprocess.Popen(shell, cwd=ROOT, env=self.environment(), stdout=log, stderr=log, start_new_session=True)
        try:
            yield
        finally:
            processes: list[psutil.Process | subprocess.Popen[bytes]] = [
                *psutil.Process(node.pid).children(recursive=True),
                node,
            ]
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            node.wait()
            log.close()


def test_the_commands_make_a_cluster_that_answers_who_has_the_key(tmp_path: Path) -> None:
    with ExitStack() as nodes:
        page = Page(tmp_path, Path(nodes.enter_context(TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))))
        page.run(page.of("deploy/secrets.sh"))
        nodes.enter_context(
            page.running(
                page.of(".venv/bin/ray start --head") + f" --include-dashboard=false --ray-client-server-port={free_port()}"
            )
        )
        status = page.of(".venv/bin/ray status")
        eventually(lambda: _works(page, status), "the head answers", 240)
        nodes.enter_context(page.running(page.of(".venv/bin/ray start --address")))
        eventually(lambda: _works(page, f"{status} | grep -c ' node_' | grep -qx 2"), "the other node has joined", 240)
        assert "clip-embedder: clip.embedder" in page.run(page.of(".venv/bin/triptych check"))
        page.run(page.of(".venv/bin/triptych deploy"))
        eventually(lambda: _works(page, page.of(f"curl -s {page.url}/ready") + " | grep -q true"), "ready", 240)
        assert '"clip"' in page.run(page.of(f"curl -s {page.url}/v1/models"))
        assert httpx.get(f"{page.url}/v1/models", timeout=WAIT_S, trust_env=False).status_code == 401


def _works(page: Page, line: str) -> bool:
    try:
        page.run(line)
    except AssertionError:
        return False
    return True
