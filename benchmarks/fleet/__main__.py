"""`python -m benchmarks.fleet`: unlike devices, simulated with the product's own schedulers, router, admission, planner and autoscaler,
beside others' (about 20 minutes on one core, `--jobs 8` on eight some five; `--quick`: a few minutes, to see that it runs).

1. Routing on speeds 1 : 3 : 6: ours, round robin, Serve's two random choices over all pools as one set, least outstanding.
2. Planning for 12 L4, 6 A100 and 2 H100: ours, an even split, a type of device for each stage, a monolith; and what the plan's own
   devices do at saturation.
3. Bursts, and images and prompts that come again, on the planned fleet (`benchmarks.fleet.overload` asks it more than it can do).
4. Scaling under one budget: ours, Serve's default.

`benchmarks.fleet.live` does the first on a real cluster. Decides how much of each, and what is a goal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from benchmarks.fleet.baselines import LEAST_OUTSTANDING, TWO_CHOICES
from benchmarks.fleet.devices import FLEET
from benchmarks.fleet.planned import PLANNED, AtSaturation, Ran, beside_others, saturated, the_plan, traces
from benchmarks.fleet.routing import BUSY, TOO_MUCH, Routed, routed
from benchmarks.fleet.scaled import DEVICES, SCALERS, SERVES, Scaled, scaled
from benchmarks.fleet.simulated import OURS
from benchmarks.reporting.command import described, results_folder, started
from benchmarks.reporting.plot import Bar, Panel, svg
from benchmarks.reporting.report import ROOT, Goal, Report

DOCS = ROOT / "docs"
P99_GOALS = {TWO_CHOICES: 0.6, LEAST_OUTSTANDING: 0.7}
FULL_BATCH_GOAL, WORK_GOAL = 0.9, 0.97


@dataclass(frozen=True, slots=True)
class Size:
    """Requests for each router; seconds in which requests come, for each plan; hours of scaling."""

    routing: int
    planned_s: float
    hours: float


FULL, QUICK = Size(6_000, 240.0, 0.5), Size(600, 20.0, 0.02)


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="simulations at a time, each on a core of its own")
    parser.add_argument("--without-serve", action="store_true", help="where Ray isn't there: not beside its autoscaling")
    given = started(parser)
    quick, jobs = given.quick, given.jobs
    size = QUICK if quick else FULL
    report = Report("fleet", {"fleet": ", ".join(f"{each.count} {each.name}" for each in FLEET), "speeds": "1 : 3 : 6"})
    panels: list[Panel] = []
    folder = results_folder(quick=quick)

    def done(more: Sequence[Panel]) -> None:
        """What is there so far is written after every part."""
        panels.extend(more)
        report.write(folder)
        DOCS.mkdir(exist_ok=True)
        (folder / "fleet.svg" if quick else DOCS / "fleet.svg").write_text(svg(panels))

    done(_routing(report, list(routed(size.routing, jobs))))
    found = the_plan()
    done(_planning(report, list(beside_others(found, size.planned_s, jobs)), saturated(found, size.planned_s)))
    scalers = (OURS,) if given.without_serve else SCALERS
    done(_scaling(report, list(scaled(size.hours, scalers, jobs))))
    done(_traces(report, list(traces(found, size.planned_s, jobs))))
    report.publish(folder)


def _routing(report: Report, found: Sequence[Routed]) -> Sequence[Panel]:
    for one in found:
        report.add(
            side=one.side,
            load=f"{one.mix} at {one.load:g}",
            p50_s=round(one.figures.p50_s, 3),
            p99_s=round(one.figures.p99_s, 3),
            per_s=round(one.figures.rate, 1),
            **{f"to_{pool}": round(share, 3) for pool, share in one.shares.items()},
            **_rounded("full", one.full_parts),
        )
    ours = {(one.mix, one.load): one for one in found if one.side == OURS}
    for one in found:
        if one.load == BUSY and one.side in P99_GOALS:
            ratio = ours[one.mix, BUSY].figures.p99_s / one.figures.p99_s
            report.goals.append(Goal(f"{one.mix} at {BUSY}: p99 beside {one.side}", ratio, P99_GOALS[one.side], at_most=True))
        if one.load == TOO_MUCH and one.side == OURS:
            least = min(one.full_parts.values())
            report.goals.append(
                Goal(f"{one.mix} at saturation: full-batch work, least of all devices", least, FULL_BATCH_GOAL)
            )
    busy = [one for one in found if one.load == BUSY]
    return [
        Panel(f"{mix}, speeds 1 : 3 : 6, load {BUSY}: p99", [_bar(one.side, one.figures.p99_s) for one in sides])
        for mix, sides in groupby(busy, key=lambda one: one.mix)
    ]


def _planning(report: Report, found: Sequence[Ran], full: AtSaturation) -> Sequence[Panel]:
    _add(report, found)
    report.add(side=PLANNED, load="saturated", **_rounded("full", full.full_parts), work_part=round(full.work_part, 4))
    report.goals.append(
        Goal(
            "the plan at saturation: work, of its own rate's",
            full.work_part,
            WORK_GOAL,
            why=f"its gap to the bound is {full.bound_gap:.1%}",
        )
    )
    for device, part in full.full_parts.items():
        report.goals.append(Goal(f"the plan at saturation: full-batch work of {device}", part, FULL_BATCH_GOAL))
    return [
        Panel(f"Asked {load}: goodput, a second", [_bar(one.side, one.goodput, one.side != PLANNED) for one in sides])
        for load, sides in groupby(found, key=lambda one: one.load)
    ]


def _traces(report: Report, found: Sequence[Ran]) -> Sequence[Panel]:
    _add(report, found)
    return [
        Panel(f"{load.capitalize()}: goodput, a second", [_bar(one.side, one.goodput) for one in sides])
        for load, sides in groupby(found, key=lambda one: one.load)
    ]


def _scaling(report: Report, found: Sequence[Scaled]) -> Sequence[Panel]:
    for one in found:
        report.add(
            side=one.side,
            load=f"scaling: {one.load}",
            goodput=round(one.chats.goodput + one.paintings.goodput, 2),
            in_time=round((one.chats.goodput + one.paintings.goodput) / _offered(one), 4),
            chat_p99_s=round(one.chats.p99_s, 2),
            painting_p99_s=round(one.paintings.p99_s, 2),
            changes=one.num_changes,
            device_hours=round(one.device_hours, 2),
            most_devices=one.most_devices,
        )
        if one.side == OURS:
            report.goals.append(Goal(f"{one.load}: devices wanted at once", one.most_devices, DEVICES, at_most=True))
        if one.side == OURS and one.load == "constant":
            report.goals.append(Goal("constant load: changes of replicas", one.num_changes, 0, at_most=True))
    return [
        Panel(
            f"{load.capitalize()}: in time, of all",
            [_bar(one.side, (one.chats.goodput + one.paintings.goodput) / _offered(one), one.side == SERVES) for one in sides],
        )
        for load, sides in groupby(found, key=lambda one: one.load)
    ]


def _offered(one: Scaled) -> float:
    """Requests a second."""
    return (one.chats.num + one.paintings.num) / one.seconds


def _add(report: Report, found: Iterable[Ran]) -> None:
    for one in found:
        figures = one.figures
        report.add(
            side=one.side,
            load=one.load,
            asked_per_s=round(one.offered, 2),
            goodput=round(one.goodput, 2),
            **{f"{kind}_in_time": round(part, 4) for kind, part in one.in_time.items()},
            refused=round(figures.num_refused / max(1, figures.num), 4),
            p50_s=round(figures.p50_s, 3),
            p99_s=round(figures.p99_s, 3),
            **_rounded("busy", one.utilisations),
            **_rounded("full", one.full_parts),
        )


def _rounded(what: str, parts: Mapping[str, float]) -> dict[str, float]:
    return {f"{what}_{device}": round(part, 3) for device, part in parts.items()}


def _bar(side: str, value: float, is_reference: bool | None = None) -> Bar:
    return Bar(side, value, f"{value:.3g}", side != OURS if is_reference is None else is_reference)


if __name__ == "__main__":
    main()
