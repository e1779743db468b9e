"""`python -m benchmarks.gpu`: everything that Triptych says of GPUs, on a real one (about 15 minutes on an H100; with `--only`, less).

Right: models of real size with random weights, and tiny ones of many architectures, answer and paint as the libraries do. Faults: memory
that runs out, and a device that breaks. Choosing: what sampling costs of a step, and that nothing waits for the device but once.
Held: what a schema adds to a step. Speed: decoding and denoising beside the bandwidth and beside the libraries. Profiles. The CPU beside
the GPU. And served: a whole Triptych on the device, over HTTP, beside its engines alone.

Every part is a process of its own with a time limit; those that measure no time run together. What has ended is in the result, whatever
becomes of the rest. `--device cpu --quick` tries the programs where there is no GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.part import Part
from benchmarks.reporting.command import described, results_folder, started, tell
from benchmarks.reporting.report import ROOT, Goal, Report, Value
from stages.device.torchvision_shim import ensure_torchvision

MAX_SHARE = 0.05
STOP_S = 90.0


@dataclass(frozen=True, slots=True)
class Described:
    """Where a part's program is, how long it may take, and whether others may run beside it."""

    name: str
    program: str
    limit_s: float
    together: bool = False


PARTS = (
    Described("broken", "faults:run_broken", 60, together=True),
    Described("forked", "forked:run", 110, together=True),
    Described("right, language", "right_llm:run", 170, together=True),
    Described("right, painting", "right_painting:run", 170, together=True),
    Described("tests", "beside:run_gpu_tests", 170, together=True),
    Described("cpu", "beside:run", 230, together=True),
    Described("faults", "faults:run", 170, together=True),
    Described("speed", "speed:run", 110),
    Described("choosing", "choosing:run", 90),
    Described("held", "held:run", 90),
    Described("cpu, auto", "beside:run_auto", 60),
    Described("profiles", "profiles:run", 180),
    Described("speed, compiled", "speed:run_compiled", 120),
    Described("served", "served:run", 360),
    Described("served, unlike", "served:run_unlike", 200),
)


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu with --quick")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], help="these parts")
    parser.add_argument("--out", type=Path, help="the folder of the result (benchmarks/results)")
    parser.add_argument("--checkpoints", type=Path, help="where they are made and kept (a folder that is gone afterwards)")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    asked = started(parser)
    if asked.part is not None:
        _run(Part(asked.part, asked.device, asked.quick, asked.checkpoints, asked.into))
        return
    with tempfile.TemporaryDirectory(prefix="gpu-") as name:
        folder = asked.checkpoints or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        chosen = [part for part in PARTS if asked.only is None or part.name in asked.only]
        _Run(asked, folder, asked.out or results_folder(quick=asked.quick)).all(chosen)


def _run(part: Part) -> None:
    ensure_torchvision()
    module, _, function = next(one.program for one in PARTS if one.name == part.name).partition(":")
    getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)(part)


class _Run:
    """Of the parts asked for; the result is written anew as each ends."""

    def __init__(self, asked: argparse.Namespace, folder: Path, out: Path) -> None:
        self._asked, self._folder, self._out = asked, folder, out
        self._rows: dict[str, list[dict[str, Value]]] = {}

    def all(self, parts: Sequence[Described]) -> None:
        together = {part: self._start(part) for part in parts if part.together}
        began = time.monotonic()
        for part, process in together.items():
            self._end(part, process, began)
        for part in parts:
            if not part.together:
                self._end(part, self._start(part), time.monotonic())
        self._report().show()

    def _start(self, part: Described) -> subprocess.Popen[bytes]:
        tell(f"{part.name}: starts")
        command = [sys.executable, "-m", "benchmarks.gpu", "--part", part.name, "--device", self._asked.device]
        command += [
            "--checkpoints",
            str(self._folder),
            "--into",
            str(self._file(part)),
            *["--quick"] * self._asked.quick,
        ]
        return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"})

    def _end(self, part: Described, process: subprocess.Popen[bytes], began: float) -> None:
        ended = ""
        try:
            status = process.wait(max(0.1, part.limit_s - (time.monotonic() - began)))
            ended = f"ended with {status}" if status else ""
        except subprocess.TimeoutExpired:
            process.terminate()  # so that it ends the servers that it started
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            ended = f"was ended after {part.limit_s:g} s"
        took = time.monotonic() - began
        path = self._file(part)
        rows = json.loads(path.read_text()) if path.exists() else []
        self._rows[part.name] = [
            *rows,
            {"part": part.name, "what": "the part", "ok": not ended, "seconds": round(took), "error": ended},
        ]
        tell(f"{part.name}: {ended or 'done'} in {took:.0f} s")
        self._report().write(self._out)

    def _file(self, part: Described) -> Path:
        return self._folder / f"{part.name.replace(', ', '-')}.json"

    def _report(self) -> Report:
        rows = [row for name in self._rows for row in self._rows[name]]
        return Report("gpu", {"device": self._asked.device, "quick": self._asked.quick}, rows, list(_goals(rows)))


def _goals(rows: Sequence[dict[str, Value]]) -> Sequence[Goal]:
    checked = [row for row in rows if "ok" in row]
    goals = [Goal("what was checked and is so", sum(bool(row["ok"]) for row in checked) / max(1, len(checked)), 1.0)]
    shares = [share for row in rows if isinstance(share := row.get("share"), float)]
    if shares:
        goals.append(Goal("choosing / step, the dearest mix", max(shares), MAX_SHARE, at_most=True))
    return goals


if __name__ == "__main__":
    main()
