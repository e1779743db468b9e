"""A server in a process of its own: started, waited for, and stopped with Ctrl-C as a person does. Knows not what it serves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.reporting.report import ROOT
from pipelines.free_port import free_port

READY_S = 300.0
STOP_S = 60.0


@contextmanager
def serving(
    command: Sequence[str],
    *,
    port: int,
    ready: str = "/health",
    env: Mapping[str, str] | None = None,
    folder: Path = ROOT,
) -> Iterator[str]:
    """Runs `command` in `folder` until the block ends; yields the address, once `ready` answers 200 there. Raises `RuntimeError` with the
    end of the server's log where it ends by itself or is not ready in time."""
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="benchmark-") as own:
        log = Path(own) / "server.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )
            try:
                _wait_until_ready(process, url + ready, log)
                yield url
            finally:
                _stop(process)


def module(name: str, **options: object) -> list[str]:
    """The command that runs a module of this repository with this Python: `flag=True` is `--flag`, `a_b=1` is `--a-b 1`."""
    command = [sys.executable, "-m", name]
    for option, value in options.items():
        flag = f"--{option.replace('_', '-')}"
        if value is True:
            command.append(flag)
        elif value is not False and value is not None:
            command += [flag, str(value)]
    return command


def port() -> int:
    """A free one, on loopback."""
    return free_port()


def _wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended by itself ({process.returncode}):\n{_end_of(log)}")
        try:
            if httpx.get(address, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"{address} was not ready in {READY_S:.0f} s:\n{_end_of(log)}")


def _end_of(log: Path) -> str:
    return log.read_text()[-3000:]


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
