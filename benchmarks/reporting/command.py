"""What benchmarks share of a command line: `--quick`, where its meaningless numbers go instead of `results/`, and a word on what is
being measured, for who waits."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from benchmarks.reporting.report import RESULTS, ROOT

QUICK_RESULTS = ROOT / ".triptych" / "quick-benchmarks"


def start(description: str | None) -> bool:
    """Reads the command line, and says whether the run is to be quick. From then on SIGTERM ends it as Ctrl-C does, so that no
    server outlives it."""
    return bool(started(described(description)).quick)


def described(description: str | None) -> argparse.ArgumentParser:
    """To add more to, where a benchmark may be told more."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run: its numbers mean nothing, and are not kept")
    return parser


def started(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """As `start`, with all that was told."""
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return given


def results_folder(*, quick: bool) -> Path:
    return QUICK_RESULTS if quick else RESULTS


def tell(what: str) -> None:
    """To standard error, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
