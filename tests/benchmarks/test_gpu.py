"""What ends a part of `benchmarks.gpu` ends what it has not measured yet, and nothing else."""

import importlib
import json
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import PARTS, Described
from benchmarks.gpu.part import Part


def part(folder: Path) -> Part:
    return Part("right", "cpu", True, folder, folder / "rows.json")


def test_what_fails_is_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    right = part(tmp_path)
    with right.trying("the first"):
        right.add(what="begun", ok=True)
        raise RuntimeError("CUDA error")
    with right.trying("the second"):
        right.add(what="another", ok=True)
    assert json.loads(right.into.read_text()) == right.rows
    assert [(row["what"], row["ok"]) for row in right.rows] == [("begun", True), ("the first", False), ("another", True)]
    assert right.rows[1]["error"] == "RuntimeError: CUDA error"


@pytest.mark.models
@pytest.mark.parametrize("described", PARTS, ids=[one.name for one in PARTS])
def test_every_part_has_a_program(described: Described) -> None:
    module, _, function = described.program.partition(":")
    assert callable(getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function))
