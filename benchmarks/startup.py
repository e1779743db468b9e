"""`python -m benchmarks.startup`: how soon Triptych is ready, and a dead stage back, beside what its libraries take to import; and
what it takes while idle, beside Ray Serve with as many deployments that do nothing (about 8 minutes; on a quiet machine).

The unit is the import of diffusers' U-Net by one process that has the machine to itself. Both ways of starting are measured:
replicas that are forks of one process (`fork_server`, as shipped), and replicas that import for themselves. Decides what is
measured and the goals.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy

import psutil

from benchmarks.loads.http_client import http_client, post
from benchmarks.reporting.command import results_folder, start, tell
from benchmarks.reporting.report import ROOT, Goal, Report
from benchmarks.servers.processes import titled
from benchmarks.servers.server import module, port, serving
from benchmarks.servers.triptych import Config, served, shipped_config

IMPORT = """
from stages.device.torchvision_shim import ensure_torchvision
ensure_torchvision()
from diffusers import UNet2DConditionModel
"""
MODEL = "triptych-paint"
RAY = (
    "ray::",
    "raylet",
    "gcs_server",
    "fork_server",
    "pipelines.cli",
    "ray_empty",
    "redis-server",
    "runtime_env_agent",
    "log_monitor",
)
IDLE_S, SETTLE_S = 30.0, 15.0


def main() -> None:
    quick = start(__doc__)
    times = 1 if quick else 3
    tell("importing")
    seconds_to_import = statistics.median(_import() for _ in range(times + 1))
    report = Report("startup", {"imported_s": round(seconds_to_import, 1), "starts": times, "idle_s": IDLE_S})
    ready: dict[bool, float] = {}
    back: dict[bool, float] = {}
    for forked in (True, False):
        runs = [_measured(forked, idle=forked and turn == times - 1) for turn in range(times if forked else 1)]
        ready[forked] = statistics.median(run[0] for run in runs)
        back[forked] = statistics.median(run[1] for run in runs)
        report.add(
            side="forks of one process" if forked else "each imports",
            ready_s=round(ready[forked], 1),
            ready_in_imports=round(ready[forked] / seconds_to_import, 2),
            killed_denoiser_back_s=round(back[forked], 1),
            back_in_imports=round(back[forked] / seconds_to_import, 2),
            idle_share_of_a_core=round(runs[-1][2], 3) if forked else None,
            deployments=runs[-1][3],
        )
    num_deployments = int(str(report.rows[0]["deployments"]))
    tell("Ray Serve with nothing in it")
    empty = _idle_of_empty(num_deployments)
    report.add(
        side="Ray Serve, deployments that do nothing", idle_share_of_a_core=round(empty, 3), deployments=num_deployments
    )
    report.goals.append(Goal("ready / one import of the U-Net", ready[True] / seconds_to_import, 5.0, at_most=True))
    idle = float(str(report.rows[0]["idle_share_of_a_core"]))
    report.goals.append(Goal("idle over Ray Serve's own, share of a core", idle - empty, 0.05, at_most=True))
    report.publish(results_folder(quick=quick))


def _import() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", IMPORT], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def _measured(forked: bool, *, idle: bool) -> tuple[float, float, float, int]:
    """Seconds to ready, seconds until a painting is answered whose denoiser has just been killed, less a painting's own, share of
    a core while idle (0 where not asked for), and the number of replicas."""
    tell(f"starting, {'forked' if forked else 'each importing'}")
    began = time.monotonic()
    with served(_config(forked)) as url:
        ready = time.monotonic() - began
        share = 0.0
        if idle:
            time.sleep(SETTLE_S)
            share = _share_of_a_core(IDLE_S)
        num_replicas = len(titled("ServeReplica:"))
        back = asyncio.run(_killed_and_back(url))
    return ready, back, share, num_replicas


def _config(forked: bool) -> Config:
    config = deepcopy(shipped_config())
    config["applications"][0]["args"]["fork_server"] = forked
    return config


async def _killed_and_back(url: str) -> float:
    body = {"model": MODEL, "prompt": "a red circle on a gray background", "seed": 1, "num_inference_steps": 4}
    async with http_client(url) as client:
        painting = min([await _seconds(lambda: post(client, "/v1/images/generations", body)) for _ in range(3)])
        (denoiser,) = titled(":denoiser")
        os.kill(denoiser.pid, signal.SIGKILL)
        return await _seconds(lambda: post(client, "/v1/images/generations", body)) - painting


async def _seconds(ask: Callable[[], object]) -> float:
    began = time.monotonic()
    await ask()  # type: ignore[misc]
    return time.monotonic() - began


def _idle_of_empty(num_deployments: int) -> float:
    at = port()
    with serving(module("benchmarks.peers.ray_empty", port=at, deployments=num_deployments), port=at):
        time.sleep(SETTLE_S)
        return _share_of_a_core(IDLE_S)


def _share_of_a_core(seconds: float) -> float:
    """Of all processes of Ray, Serve and what they host."""

    def used() -> dict[int, float]:
        times = {}
        for process in psutil.process_iter(["cmdline"]):
            if any(word in " ".join(process.info["cmdline"] or []) for word in RAY) and process.pid != os.getpid():
                spent = process.cpu_times()
                times[process.pid] = spent.user + spent.system
        return times

    before, began = used(), time.monotonic()
    time.sleep(seconds)
    after, took = used(), time.monotonic() - began
    return sum(after[pid] - before[pid] for pid in after if pid in before) / took


if __name__ == "__main__":
    main()
