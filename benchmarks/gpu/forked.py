"""Whether a process that has imported what replicas need leaves the GPU to its forks (`pipelines/cluster/fork_server.py`): each may use
it, and each sees the devices that its own environment names, not those that its parent's named."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from benchmarks.gpu.part import Part
from benchmarks.reporting.report import ROOT

_ASKS = """
import json, os
from pipelines.cluster import fork_server
for module in (*fork_server.BASE, *fork_server.STAGES):
    fork_server._import(module)
import torch
found = {"touched": torch.cuda.is_initialized()}
for name, visible in (("with_a_device", "0"), ("with_none", "")):
    read, write = os.pipe()
    if os.fork() == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
        try:
            told = str(torch.ones(3, device="cuda").sum().item()) if torch.cuda.is_available() else "no device"
        except BaseException as error:
            told = f"{type(error).__name__}: {str(error)[:200]}"
        os.write(write, told.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        found[name] = answer.read()
print(json.dumps(found))
"""


def run(part: Part) -> None:
    with part.trying("forks"):
        environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        done = subprocess.run(
            [sys.executable, "-c", _ASKS],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        found = json.loads(done.stdout.strip().splitlines()[-1])
        wanted = "3.0" if part.device == "cuda" else "no device"
        ok = not found["touched"] and found["with_a_device"] == wanted and found["with_none"] == "no device"
        part.add(what="forks of who imported everything", ok=ok, **found)
