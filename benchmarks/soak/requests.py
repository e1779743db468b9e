"""What became of a load that is more than can be carried: goodput by minute, refusals, and whether who asked again when told to was let in.
Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.loads.spread import percentile
from benchmarks.mixed.asked import Asked
from benchmarks.reporting.report import Value

REFUSED = (429, 503)


@dataclass(frozen=True, slots=True)
class Sent:
    """A request of the load, and, where it was refused with a time to wait, what became of it after that time."""

    asked: Asked
    again: Asked | None = None

    @property
    def is_refused(self) -> bool:
        return self.asked.status in REFUSED

    @property
    def is_answered(self) -> bool:
        return not self.asked.has_failed or (self.again is not None and not self.again.has_failed)

    @property
    def ended_at(self) -> float:
        last = self.again or self.asked
        return last.ended_at if last.ended_at is not None else math.inf


def by_minute(sent: Sequence[Sent], began: float, minutes: float) -> list[dict[str, Value]]:
    """A row a minute. `goodput`: requests answered in it, a second; the rest counts those that were sent in it."""
    rows = list[dict[str, Value]]()
    for minute in range(math.ceil(minutes)):
        start, end = began + 60 * minute, began + min(60 * (minute + 1), 60 * minutes)
        there = [one for one in sent if start <= one.asked.sent_at < end]
        answered = [one for one in sent if one.is_answered and start <= one.ended_at < end]
        pauses = [one.asked.longest_pause_s() for one in there if not one.asked.has_failed]
        rows.append(
            {
                "side": "minute",
                "load": str(minute + 1),
                "sent": len(there),
                "goodput": round(len(answered) / (end - start), 3),
                "refused": sum(one.is_refused for one in there),
                "failed": sum(one.asked.has_failed and not one.is_refused for one in there),
                "resumed": sum(bool(one.asked.lost) and not one.asked.has_failed for one in there),
                "pause_p99_s": round(percentile(pauses, 99), 2) if pauses else None,
            }
        )
    return rows


def refusals(sent: Sequence[Sent]) -> Mapping[str, Value]:
    """How many were refused, told a time, asked again after it, and let in then (answered, or failed of something else than room)."""
    refused = [one for one in sent if one.is_refused]
    again = [one.again for one in refused if one.again is not None]
    return {
        "refused": len(refused),
        "with_retry_after": sum(one.asked.retry_after_s is not None for one in refused),
        "asked_again": len(again),
        "let_in": sum(one.status not in REFUSED for one in again),
    }
