"""What is counted of one stage's pages. Knows no Prometheus; `StageMetrics` in `stages/contract/item.py` says what each means."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field


@dataclass(slots=True)
class PageCounters:
    """Of one event loop, but for what is exported (`writing.py`)."""

    hits: dict[str, int] = field(default_factory=dict)  # by tier
    page_hits_slots_total: int = 0
    page_misses_total: int = 0
    page_bytes_fetched_total: int = 0
    page_fetches_chosen_total: int = 0
    page_fetches_declined_total: int = 0
    page_fetches_refused_total: int = 0
    page_fetches_failed_total: int = 0
    page_wait_seconds_total: float = 0.0
    page_fetch_seconds_total: float = 0.0
    page_fetch_error_seconds_total: float = 0.0

    @classmethod
    def of(cls, tiers: Iterable[str]) -> "PageCounters":
        return cls(dict.fromkeys(tiers, 0))

    def as_metrics(self) -> dict[str, float]:
        told = asdict(self)
        hits = told.pop("hits")
        return {f"page_hits_{tier}_total": float(count) for tier, count in hits.items()} | {
            name: float(value) for name, value in told.items()
        }
