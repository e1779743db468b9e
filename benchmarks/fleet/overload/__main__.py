"""`python -m benchmarks.fleet.overload`: up to five times as much as it can do is asked of a planned fleet of 12 L4, 6 A100 and 2 H100,
simulated with the product's own schedulers, router and admission, beside Serve's two choices and least outstanding (ten minutes on one
core, `--jobs` for more at a time; `--quick`: two, to see that it runs).

`load.py` has what is asked. Decides how much of it, and what is a goal.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.fleet.devices import FLEET
from benchmarks.fleet.overload.load import NOT_URGENT, Overloaded, overloaded
from benchmarks.fleet.planned import the_plan
from benchmarks.fleet.simulated import OURS
from benchmarks.reporting.command import described, results_folder, started
from benchmarks.reporting.plot import Line, Lines, svg
from benchmarks.reporting.report import Goal, Report

FULL_S, QUICK_S = 150.0, 10.0
OVERLOAD_GOAL, LATE_GOAL = 0.95, 0.01


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="simulations at a time, each on a core of its own")
    given = started(parser)
    found = the_plan()
    fleet = ", ".join(f"{each.count} {each.name}" for each in FLEET)
    report = Report("overload", {"fleet": fleet, "rate": round(found.rate, 2), "not_urgent": NOT_URGENT})
    lines = _told(report, list(overloaded(found, QUICK_S if given.quick else FULL_S, given.jobs)))
    path = report.publish(results_folder(quick=given.quick))
    path.with_suffix(".svg").write_text(svg([lines]))


def _told(report: Report, found: Sequence[Overloaded]) -> Lines:
    for one in found:
        report.add(
            side=one.side,
            load=f"x{one.times:g}",
            asked_per_s=round(one.offered, 2),
            goodput=round(one.goodput, 2),
            **{f"{kind}_in_time": round(part, 4) for kind, part in one.in_time.items()},
            urgent_in_time=round(one.urgent_in_time, 4),
            not_urgent_in_time=round(one.later_in_time, 4),
            late_of_admitted=round(one.late, 4),
            p99_of_deadline=round(one.p99, 3),
        )
    ours = [one for one in found if one.side == OURS]
    most, last = max(one.goodput for one in ours), ours[-1]
    report.goals.append(Goal("x5: goodput, of its peak", last.goodput / most, OVERLOAD_GOAL))
    report.goals.append(Goal("late of what was admitted", max(one.late for one in ours), LATE_GOAL, at_most=True))
    before = min(one.urgent_in_time - one.later_in_time for one in ours if one.times > 1)
    report.goals.append(Goal("in time of what is urgent, less of what is not", before, 0.0))
    sides = dict.fromkeys(one.side for one in found)
    lines = [Line(side, [(one.times, one.goodput) for one in found if one.side == side]) for side in sides]
    return Lines("Asked more than can be done", "times", "goodput before deadlines, a second", lines)


if __name__ == "__main__":
    main()
