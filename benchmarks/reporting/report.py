"""What every benchmark writes: one JSON file in `results/` and the same as a table on the screen.

Decides the shape of a result: where it was measured, with what settings, one row for each side and load, and the goals with
whether each is met. Knows nothing of what is measured.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from stages.device.cores import available_cores

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
_PACKAGES = ("torch", "transformers", "diffusers", "ray", "open_clip_torch")

Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio (or share) that must reach a bound; `at_most` turns the comparison round.

    `why` says what a profile showed where the goal is missed.
    """

    name: str
    measured: float
    bound: float
    at_most: bool = False
    why: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the bound is reached."""
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound


@dataclass(slots=True)
class Report:
    """One benchmark's outcome: `settings` hold for all rows; a row is one side under one load."""

    name: str
    settings: dict[str, Value]
    rows: list[dict[str, Value]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, **row: Value) -> None:
        """Adds a row; the first two values name the side and the load."""
        self.rows.append(row)

    def publish(self, folder: Path = RESULTS) -> Path:
        """Writes, and prints the tables; returns the file's path."""
        path = self.write(folder)
        self.show()
        return path

    def write(self, folder: Path = RESULTS) -> Path:
        """`NAME.json` into `folder`; returns the file's path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        goals = [asdict(goal) | {"met": goal.is_met} for goal in self.goals]
        found = {"name": self.name, "machine": machine(), "settings": self.settings, "rows": self.rows, "goals": goals}
        path.write_text(json.dumps(found | {"notes": self.notes}, indent=1) + "\n")
        return path

    def show(self) -> None:
        """Prints the tables, what became of the goals, and the notes."""
        console = Console()
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        table = Table(*columns, title=self.name)
        for row in self.rows:
            table.add_row(*(_shown(row.get(name)) for name in columns))
        console.print(table)
        for goal in self.goals:
            sign, mark = "<=" if goal.at_most else ">=", "met" if goal.is_met else "MISSED"
            console.print(f"{goal.name}: {goal.measured:.3g} ({sign} {goal.bound:.3g}) {mark}  {goal.why}")
        for note in self.notes:
            console.print(note)


def rows_of(name: str, folder: Path = RESULTS) -> list[dict[str, Value]]:
    """What the last run of a benchmark wrote; nothing where there was none."""
    return _written(name, folder, "rows")


def notes_of(name: str, folder: Path = RESULTS) -> list[str]:
    return _written(name, folder, "notes")


def _written(name: str, folder: Path, part: str) -> list[Any]:
    path = folder / f"{name}.json"
    return list(json.loads(path.read_text()).get(part, ())) if path.exists() else []


def machine() -> dict[str, Value]:
    """The device, the cores and the versions that a number belongs to."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu()
    found: dict[str, Value] = {
        "device": device,
        "instructions": _instructions(),
        "num_cores": available_cores(),
        "python": platform.python_version(),
    }
    found["day"] = datetime.now(UTC).date().isoformat()
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _instructions() -> str:
    """What torch's own kernels and oneDNN's may use here."""
    import torch

    capability: str = torch.backends.cpu.get_cpu_capability()
    return capability + (" with bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "")


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _shown(value: Value) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
