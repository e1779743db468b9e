"""What every part of `benchmarks.gpu` is given, and where its rows go: into a file, again with each row, so that whatever ends a part
ends what is not measured yet, and nothing else. Knows no part."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.reporting.command import tell
from benchmarks.reporting.report import Value


@dataclass(slots=True)
class Part:
    """One process's. `device`: "cuda", or "cpu" to try the programs; `quick`: tiny models, and numbers that mean nothing; `folder`: of
    checkpoints, shared by all parts."""

    name: str
    device: str
    quick: bool
    folder: Path
    into: Path
    rows: list[dict[str, Value]] = field(default_factory=list)

    def add(self, **row: Value) -> None:
        self.rows.append({"part": self.name, **row})
        self.into.write_text(json.dumps(self.rows))
        tell(f"{self.name}: " + ", ".join(f"{name} {value}" for name, value in row.items()))

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """What fails is a row, and the rest goes on."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.add(what=what, ok=False, error=f"{type(error).__name__}: {str(error)[:400]}")
        else:
            tell(f"{self.name}: {what} took {time.perf_counter() - began:.1f} s")

    def pick(self, real: int, quick: int) -> int:
        return quick if self.quick else real


def synchronize(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


def median_seconds(device: str, once: Callable[[], object], times: int) -> float:
    """Until the device is done, after two that don't count."""
    found = []
    for turn in range(times + 2):
        synchronize(device)
        began = time.perf_counter()
        once()
        synchronize(device)
        if turn > 1:
            found.append(time.perf_counter() - began)
    return sorted(found)[len(found) // 2]
