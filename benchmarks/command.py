"""The command line that benchmarks share: `--quick`, and where its meaningless numbers go instead of `results/`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.report import RESULTS
from benchmarks.server import ROOT

QUICK_RESULTS = ROOT / ".triptych" / "quick-benchmarks"


def is_quick(description: str | None) -> bool:
    """Reads the command line, which has nothing but `--quick`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run: its numbers mean nothing, and are not kept")
    return bool(parser.parse_args().quick)


def results_folder(*, quick: bool) -> Path:
    return QUICK_RESULTS if quick else RESULTS
