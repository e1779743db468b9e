"""What this version costs beside the models, beside an earlier one: two servers at once, each with its own shipped configuration,
asked the same in turns.

`git worktree add ../earlier COMMIT; python -m benchmarks.versions --before ../earlier` (about 5 minutes on 2 quiet cores; the
earlier one runs with `.venv` in its folder, or with this environment). The machine's speed wanders, so pairs are compared: one
request to each, right after one another, whose turn is first alternating. A new image may cost no more than before, a remembered
one less.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.hops import NEW_IMAGE, REMEMBERED_IMAGE, asked
from benchmarks.loads.http_client import http_client, post
from benchmarks.overhead.beside_models import Breakdown, Kind, broken_down, median_parts_s
from benchmarks.reporting.command import described, results_folder, started, tell
from benchmarks.reporting.report import ROOT, Goal, Report
from benchmarks.servers.server import port, serving

BEFORE, AFTER = "before", "after"
NUM_PAIRS, NUM_WARM_UP, QUICK_PAIRS = 40, 8, 2
GOALS = {NEW_IMAGE: 1.0, REMEMBERED_IMAGE: 0.8}


@contextmanager
def version(folder: Path) -> Iterator[str]:
    """As a person serves what is in the folder."""
    own, at = folder / ".venv" / "bin" / "python", port()
    command = [str(own) if own.exists() else sys.executable, "-m", "pipelines.cli", "serve", "--port", str(at)]
    with serving(command, port=at, ready="/ready", env={"PYTHONPATH": str(folder)}, folder=folder) as url:
        yield url


@dataclass(frozen=True, slots=True)
class Pair:
    """One request to each."""

    before: Breakdown
    after: Breakdown

    @property
    def ratio(self) -> float:
        return self.after.beside_s / self.before.beside_s


async def compared(urls: dict[str, str], each: Kind, num_pairs: int) -> Sequence[Pair]:
    async with http_client(urls[BEFORE]) as before, http_client(urls[AFTER]) as after:
        clients, pairs = {BEFORE: before, AFTER: after}, []
        for index in range(NUM_WARM_UP + num_pairs):
            found: dict[str, Breakdown] = {}
            for side in (BEFORE, AFTER) if index % 2 else (AFTER, BEFORE):
                found[side] = await _asked(clients[side], each, index)
            pairs.append(Pair(**found))
    return pairs[NUM_WARM_UP:]


async def _asked(client: httpx.AsyncClient, each: Kind, index: int) -> Breakdown:
    body, began = each.body(index), time.monotonic()
    answer = await post(client, each.path, body)
    return broken_down(time.monotonic() - began, answer["triptych"])


def _add(report: Report, name: str, pairs: Sequence[Pair]) -> None:
    ratio = statistics.median(pair.ratio for pair in pairs)
    for side, found in ((BEFORE, [pair.before for pair in pairs]), (AFTER, [pair.after for pair in pairs])):
        beside_ms = [1000 * one.beside_s for one in found]
        low, _, high = statistics.quantiles(beside_ms, n=4)
        report.add(
            side=side,
            load=name,
            beside_models_ms=statistics.median(beside_ms),
            quartiles_ms=f"{low:.1f} to {high:.1f}",
            wall_ms=1000 * statistics.median(one.wall_s for one in found),
        )
        for part, seconds in median_parts_s(found).items():
            report.add(side=side, load=name, part=part, median_ms=1000 * seconds)
    report.add(side="after / before", load=name, median_of_pairs=ratio)
    if name in GOALS:
        why = f"of {len(pairs)} pairs {sum(pair.ratio > GOALS[name] for pair in pairs)} are over it"
        report.goals.append(Goal(f"{name}: time beside the models, after / before", ratio, GOALS[name], at_most=True, why=why))
    tell(f"{name}: after / before {ratio:.3f}")


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--before", type=Path, required=True, help="the folder of an earlier version")
    given = started(parser)
    num_pairs = QUICK_PAIRS if given.quick else NUM_PAIRS
    report = Report("versions", {"pairs": num_pairs, "warm_up": NUM_WARM_UP})
    with ExitStack() as stack:
        sides = ((BEFORE, given.before.resolve()), (AFTER, ROOT))
        urls = {side: stack.enter_context(version(folder)) for side, folder in sides}
        for each in asked(num_bodies=NUM_WARM_UP + num_pairs):
            _add(report, each.name, asyncio.run(compared(urls, each, num_pairs)))
    report.publish(results_folder(quick=given.quick))


if __name__ == "__main__":
    main()
