"""What tenants have used, by the day (UTC). Decides what is counted of a request, and how long days are kept. Pure.

What a request took of devices is its own part of what it shared with others, as its receipts say. Whoever is called off before a stage has
told its receipt is not charged for that stage.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from pipelines.context import RequestContext

KEEP_DAYS = 90


@dataclass(frozen=True, slots=True)
class Spent:
    """By one request, or by many. `refused`: requests that a quota refused, which are not among `requests`. `device_s`: by stage."""

    requests: int = 0
    refused: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    device_s: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(
            self.requests + other.requests,
            self.refused + other.refused,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            {
                stage: self.device_s.get(stage, 0.0) + other.device_s.get(stage, 0.0)
                for stage in {**self.device_s, **other.device_s}
            },
        )

    @property
    def device_seconds(self) -> float:
        return sum(self.device_s.values())

    def document(self) -> dict[str, Any]:
        """Of JSON's types, for `read`."""
        counts = [self.requests, self.refused, self.input_tokens, self.output_tokens]
        return {"counts": counts, "device_s": dict(self.device_s)}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "Spent":
        requests, refused, input_tokens, output_tokens = map(int, document["counts"])
        device_s = {str(stage): float(seconds) for stage, seconds in document["device_s"].items()}
        return cls(requests, refused, input_tokens, output_tokens, device_s)


NOTHING = Spent()


def spent_by(context: RequestContext, *, requests: int = 1) -> Spent:
    """By what is through. `requests`: how many it is."""
    device_s: dict[str, float] = {}
    for receipt in context.receipts:
        device_s[receipt.stage] = device_s.get(receipt.stage, 0.0) + receipt.device_s
    tokens = context.usage
    return Spent(
        requests=requests,
        input_tokens=tokens.input_tokens if tokens is not None else 0,
        output_tokens=tokens.output_tokens if tokens is not None else 0,
        device_s=device_s,
    )


def day_of(now: float) -> str:
    """The day in UTC of so many seconds since 1970, such as 2026-02-28."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def days_before(now: float, num_days: int) -> list[str]:
    """So many days that end with today, the latest first."""
    today = date.fromisoformat(day_of(now))
    return [(today - timedelta(days=back)).isoformat() for back in range(num_days)]


@dataclass(slots=True)
class UsageTotals:
    """By day, then by tenant."""

    of_days: dict[str, dict[str, Spent]] = field(default_factory=dict)

    def add(self, day: str, tenant: str, spent: Spent) -> None:
        tenants = self.of_days.get(day)
        if tenants is None:
            tenants = self.of_days[day] = {}
            for old in sorted(self.of_days)[:-KEEP_DAYS]:
                del self.of_days[old]
        tenants[tenant] = tenants.get(tenant, NOTHING) + spent

    def of(self, day: str) -> Mapping[str, Spent]:
        return self.of_days.get(day, {})


def together(parts: Iterable[Mapping[str, Spent]]) -> dict[str, Spent]:
    """By tenant, of several processes."""
    found: dict[str, Spent] = {}
    for part in parts:
        for tenant, spent in part.items():
            found[tenant] = found.get(tenant, NOTHING) + spent
    return found
