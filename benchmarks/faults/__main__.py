"""`python -m benchmarks.faults`: what becomes of requests when a part of a served Triptych is killed or stopped under load (about half
an hour on 2 cores; `--quick`: about ten minutes, to see that it runs; `--only NAME ...`: those, and what is known of the others is kept).

Real Ray, the demo's models, one replica of each stage, so that nobody is there to take over: what a client feels is the time until another
one has started. The loss of a node is had on a cluster of two, where the other node takes over; a full disk on one of its own, in memory,
which takes the right to mount one (else it is left out, and a note says so). Each fault strikes in mid-stream of greedy
and of seeded chats, beside chats about images, paintings and embeddings. Streams that went on elsewhere are asked again, alone, and must be
the same. The table in docs/ray-cluster.md is written from the results.

A client asks again as OpenAI's SDK does by itself: up to twice, where nothing was told yet. `failed` is what has no answer then.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults.kinds import FAULTS, Cluster, Fault
from benchmarks.faults.outcome import drawn, merged
from benchmarks.faults.small_disk import NoDisk, small_disk, written_there
from benchmarks.faults.trial import Plan, Tried, tried
from benchmarks.faults.two_nodes import APPLICATION as TWO_NODES
from benchmarks.mixed.requests import Size
from benchmarks.mixed.server import new_mark, one_of_each
from benchmarks.reporting.command import described, results_folder, started, tell
from benchmarks.reporting.page import write_into
from benchmarks.reporting.report import ROOT, Goal, Report, notes_of, rows_of
from benchmarks.servers.parts import MARK, Server
from benchmarks.servers.server import module, port, serving

PAGE = ROOT / "docs" / "ray-cluster.md"
APPLICATION = "faults"
NO_DISK = "without a disk of its own, which this machine mounts for us not"
FULL = Plan(Size(tokens=96, steps=20), warm_s=10.0, after_s=5.0, calm_s=30.0, back_s=240.0, compared=8)
QUICK = Plan(Size(tokens=48, steps=8), warm_s=1.0, after_s=1.0, calm_s=5.0, back_s=180.0, compared=2)
A_FAULT = 10_000  # requests at most


def main() -> None:
    parser = described(__doc__)
    names = [fault.name for fault in FAULTS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    given = started(parser)
    plan = QUICK if given.quick else FULL
    folder = results_folder(quick=given.quick)
    wanted = [fault for fault in FAULTS if given.only is None or fault.name in given.only]
    report = Report(
        "faults", {"tokens": plan.size.tokens, "steps": plan.size.steps, "replicas": "1 of each stage; node: 1 on each of two"}
    )
    known = rows_of("faults", folder) if given.only else []
    told = notes_of("faults", folder) if given.only else []
    found: list[Tried] = []
    try:
        for fault, one in _in_turn(wanted, plan):
            found.append(one)
            report.notes += [f"{fault.what}: {error}" for error in one.errors]
    except NoDisk as reason:  # those of a full disk are the last
        report.notes.append(f"{NO_DISK}: {reason}")
    finally:  # a run that is broken off keeps what it found; --only asks the rest
        again = (NO_DISK, *(f"{one.row['fault']}: " for one in found))
        report.notes = [note for note in told if not note.startswith(again)] + report.notes
        report.rows = merged(known, [one.row for one in found], [fault.what for fault in FAULTS])
        report.goals = goals(report)
        report.publish(folder)
        if not given.quick:
            write_into(PAGE, "faults", drawn(report.rows))
    lost = [str(one.row["fault"]) for one in found if not one.is_back]
    sys.exit(f"not back in {plan.back_s:.0f} s: {', '.join(lost)}" if lost else 0)


def goals(report: Report) -> list[Goal]:
    """Whether every stream that went on elsewhere is what it would have been."""
    shares = [str(row[name]).split(" of ") for row in report.rows for name in ("greedy_same", "seeded_same") if row.get(name)]
    same, compared = (sum(int(share[place]) for share in shares) for place in (0, 1))
    return [Goal("text of compared streams as undisturbed, share", same / compared, 1.0)] if compared else []


def _in_turn(faults: Sequence[Fault], plan: Plan) -> Iterator[tuple[Fault, Tried]]:
    """Each on the server that the one before it has left; on a fresh one where that is not as it was."""
    left = list(faults)
    first = A_FAULT
    while left:
        with _served(left[0].on) as (server, disk):
            is_whole, cluster = True, left[0].on
            while is_whole and left and left[0].on is cluster:
                fault = left.pop(0)
                tell(fault.what)
                one = asyncio.run(tried(fault, server, plan, first, disk))
                first += A_FAULT
                is_whole = one.is_back
                yield fault, one


@contextmanager
def _served(on: Cluster) -> Iterator[tuple[Server, Path | None]]:
    """The server, and where its disk is, if it has one of its own. Raises `NoDisk`."""
    match on:
        case Cluster.NODE:
            with one_of_each(APPLICATION) as server:
                yield server, None
        case Cluster.SMALL_DISK:
            with small_disk() as folder, one_of_each(APPLICATION, env=written_there(folder)) as server:
                yield server, folder
        case Cluster.TWO_NODES:
            at, mark = port(), new_mark()
            with serving(module("benchmarks.faults.two_nodes", port=at), port=at, ready="/ready", env={MARK: mark}) as url:
                yield Server(url, TWO_NODES, mark), None


if __name__ == "__main__":
    main()
