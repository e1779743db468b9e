"""A served Triptych as a person starts it: `triptych serve` in a process of its own, on a free loopback port."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from openai import AsyncOpenAI, OpenAI

from benchmarks.servers.processes import marked, replicas
from pipelines.tour import free_port

ROOT = Path(__file__).parents[2]
READY_S = 300
SERVED_AT = "TRIPTYCH_TESTS_SERVED_AT"  # in the environment of all that a server starts


class Server:
    def __init__(self, url: str, app_name: str) -> None:
        self.url, self._app_name = url, app_name
        self.http = httpx.Client(base_url=url, timeout=120, trust_env=False)
        self.openai = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)

    def close(self) -> None:
        self.http.close()
        self.openai.close()

    def async_openai(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=240)

    def replicas(self) -> dict[str, int]:
        """Deployment -> replicas that run now."""
        models = self.http.get("/v1/models").json()["data"]
        return {stage["deployment"]: stage["replicas"] for model in models for stage in model["triptych"]["stages"]}

    def counter(self, name: str, stage: str) -> float:
        """The sum of one counter over the replicas of one stage."""
        total = 0.0
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(f"{name}{{") and f'stage="{stage}"' in line:
                total += float(line.rsplit(" ", 1)[1])
        return total

    def processes(self) -> dict[int, psutil.Process]:
        """Its own, its Ray's and its replicas', wherever they hang in the tree of processes."""
        return marked(SERVED_AT, self.url)

    def pids(self, deployment: str) -> list[int]:
        """The processes of a deployment's replicas."""
        return [process.pid for process in replicas(self._app_name, deployment)]

    @contextmanager
    def controller_away(self) -> Iterator[None]:
        """Serve's controller is there, and does nothing."""
        ours = self.processes().values()
        (controller,) = [process for process in ours if "ServeController" in " ".join(process.cmdline())]
        controller.suspend()
        try:
            yield
        finally:
            controller.resume()


def eventually(check: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
    """Waits for a condition of the real world; fails with its name."""
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.1)


def shipped_config() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    return document


@contextmanager
def served(config: dict[str, Any], folder: Path) -> Iterator[Server]:
    """Starts `triptych serve` with this configuration and stops it with Ctrl-C, as a person does."""
    path, log = folder / "serve_config.yaml", folder / "serve.log"
    path.write_text(yaml.safe_dump(config))
    port = free_port()
    command = [sys.executable, "-m", "pipelines.cli", "serve", "--config", str(path), "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, SERVED_AT: url}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait_until_ready(process, log)
            with closing(Server(url, config["applications"][0]["name"])) as server:
                yield server
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 0, log.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    def ready() -> bool:
        assert process.poll() is None, f"triptych serve ended by itself:\n{log.read_text()}"
        return "ready: open http" in log.read_text()

    eventually(ready, f"'ready' from triptych serve; its log: {log}", READY_S)
