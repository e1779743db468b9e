"""From what clients saw before, under and after a fault to the row that tells of it, and to the table in the docs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.mixed.asked import Asked
from benchmarks.mixed.requests import Kind
from benchmarks.reporting.page import table
from benchmarks.reporting.report import Value

Compared = Mapping[Kind, Sequence[bool]]
"""Of each kind, whether each stream that was compared is what it would have been undisturbed."""

COLUMNS = {
    "fault": "fault",
    "in_flight": "in flight",
    "sent_meanwhile": "sent until back",
    "failed": "failed",
    "asked_again": "client asked again",
    "resumed": "went on elsewhere",
    "greedy_same": "same text, greedy",
    "seeded_same": "same text, seeded",
    "painting_same": "same painting",
    "pause_s": "longest pause, s",
    "usual_pause_s": "before the fault, s",
    "back_s": "back after, s",
}


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault that was had. `at`: when, by the clients' clock; `back_s`: seconds until what needs the part was answered again and the part
    was there (None: not in time)."""

    what: str
    at: float
    back_s: float | None


def concerned(asked: Sequence[Asked], struck: Struck, until: float) -> Sequence[Asked]:
    """Requests in flight when it struck, and those that were sent until `until`."""
    return [one for one in asked if one.is_running(struck.at) or struck.at < one.sent_at <= until]


def resumed(asked: Sequence[Asked]) -> Sequence[Asked]:
    """Streams that went on in another replica, and came to their end."""
    return [one for one in asked if one.lost and one.request.is_streamed and not one.has_failed]


def row(struck: Struck, asked: Sequence[Asked], until: float, compared: Compared) -> dict[str, Value]:
    """`asked`: all of the load, each through. `until`: when it was back, or given up."""
    those = concerned(asked, struck, until)
    in_flight = [one for one in those if one.is_running(struck.at)]
    before = [one for one in asked if one.ended_at is not None and one.ended_at <= struck.at]
    return {
        "fault": struck.what,
        "in_flight": len(in_flight),
        "sent_meanwhile": len(those) - len(in_flight),
        "failed": sum(one.has_failed for one in those),
        "failed_in_flight": sum(one.has_failed for one in in_flight),
        "asked_again": sum(one.tries > 1 and not one.has_failed for one in those),
        "resumed": len(resumed(those)),
        "greedy_same": _same(compared, (Kind.GREEDY, Kind.IMAGE_CHAT)),
        "seeded_same": _same(compared, (Kind.SEEDED,)),
        "painting_same": _same(compared, (Kind.PAINTING,)),
        "pause_s": round(max((one.longest_pause_s(struck.at) for one in those), default=0.0), 2),
        "usual_pause_s": round(max((one.longest_pause_s() for one in before), default=0.0), 2),
        "back_s": round(struck.back_s, 1) if struck.back_s is not None else None,
    }


def _same(compared: Compared, kinds: Collection[Kind]) -> str | None:
    """None where there were none."""
    found = [is_same for kind in kinds for is_same in compared.get(kind, ())]
    return f"{sum(found)} of {len(found)}" if found else None


def errors(asked: Sequence[Asked], most: int = 3) -> Sequence[str]:
    """What clients were told, each once, the commonest first."""
    told = [f"{one.request.kind}: {one.error}" for one in asked if one.has_failed]
    return sorted(set(told), key=lambda error: (-told.count(error), error))[:most]


def merged(
    known: Sequence[Mapping[str, Value]], found: Sequence[Mapping[str, Value]], order: Sequence[str]
) -> list[dict[str, Value]]:
    """What is found takes the place of what was known of the same fault; those that are no fault any more are left out."""
    rows = {str(one["fault"]): dict(one) for one in (*known, *found)}
    return [rows[what] for what in order if what in rows]


def drawn(rows: Sequence[Mapping[str, Value]]) -> str:
    """The table in the docs."""
    return table(COLUMNS, rows) if rows else "Not measured yet."
