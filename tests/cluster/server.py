"""A served Triptych as a person starts it: `triptych serve` in a process of its own, on a free loopback port."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from openai import AsyncOpenAI, OpenAI

from benchmarks.servers.processes import marked, replicas
from pipelines.free_port import free_port

ROOT = Path(__file__).parents[2]
READY_S, ENDED_S = 600, 180
PATIENT = {"x-request-timeout-seconds": "600"}
"""Or admission would refuse what can't be done in the usual time by a machine that is busy, or stands still for a while."""
WAIT_S = 600
SERVED_AT = "TRIPTYCH_TESTS_SERVED_AT"  # in the environment of all that a server starts


class Server:
    def __init__(self, url: str, app_name: str) -> None:
        self.url, self._app_name = url, app_name
        self.http = httpx.Client(base_url=url, timeout=WAIT_S, trust_env=False, headers=PATIENT)
        self.openai = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=WAIT_S, default_headers=PATIENT)

    def close(self) -> None:
        self.http.close()
        self.openai.close()

    def async_openai(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=WAIT_S, default_headers=PATIENT)

    def replicas(self) -> dict[str, int]:
        """Deployment -> replicas that run now."""
        models = self.http.get("/v1/models").json()["data"]
        return {stage["deployment"]: stage["replicas"] for model in models for stage in model["triptych"]["stages"]}

    def counter(self, name: str, stage: str) -> float:
        """The sum of one counter over the replicas of one stage."""
        return sum(self.counts(name, stage).values())

    def counts(self, name: str, stage: str) -> dict[str, float]:
        """One counter of one stage, by the labels of each replica. Those that have ended are forgotten after a while."""
        told = [line for line in self.metrics() if line.startswith(f"{name}{{") and f'stage="{stage}"' in line]
        return {labels: float(value) for labels, value in (line.rsplit(" ", 1) for line in told)}

    def metrics(self) -> list[str]:
        """The lines of /metrics, with the stages' counters, which are left out while nobody can tell them."""
        lines: list[str] = []

        def told() -> bool:
            lines[:] = self.http.get("/metrics").text.splitlines()
            return "triptych_stage_metrics_up 1.0" in lines

        eventually(told, "the stages' counters are told")
        return lines

    def processes(self) -> dict[int, psutil.Process]:
        """Its own, its Ray's and its replicas', wherever they hang in the tree of processes."""
        return marked(SERVED_AT, self.url)

    def pids(self, deployment: str) -> list[int]:
        """The processes of a deployment's replicas."""
        return [process.pid for process in replicas(self._app_name, deployment)]

    def kill(self, deployment: str) -> list[int]:
        """kill -9 of a deployment's replicas; their processes."""
        pids = self.pids(deployment)
        for pid in pids:
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(pid, signal.SIGKILL)
        return pids

    @contextmanager
    def controller_away(self) -> Iterator[None]:
        """Serve's controller is there, and does nothing."""
        found = []
        for process in self.processes().values():
            with suppress(psutil.Error):  # others come and go
                if "ServeController" in " ".join(process.cmdline()):
                    found.append(process)
        (controller,) = found
        controller.suspend()
        try:
            yield
        finally:
            controller.resume()


def grown(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """By how much the counts of replicas have grown together. One that has ended may be forgotten meanwhile, with what it had counted."""
    return sum(count - before.get(replica, 0.0) for replica, count in now.items())


def eventually(
    check: Callable[[], bool], what: str, timeout_s: float = 120, found: Callable[[], object] | None = None
) -> None:
    """Waits for a condition of the real world; fails with its name, and with what is `found` instead."""
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            instead = "" if found is None else f"; found: {found()}"
            raise AssertionError(f"not within {timeout_s} s: {what}{instead}")
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
            assert process.wait(timeout=ENDED_S) == 0, log.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    def ready() -> bool:
        assert process.poll() is None, f"triptych serve ended by itself:\n{log.read_text()}"
        return "ready: open http" in log.read_text()

    eventually(ready, f"'ready' from triptych serve; its log: {log}", READY_S)
