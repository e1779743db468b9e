"""What is counted of one stage's pages. Knows no Prometheus; `StageMetrics` in `stages/contract/item.py` says what each means."""

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class PageCounters:
    """Of one event loop, but for what is exported (`writing.py`)."""

    page_hits_slots_total: int = 0
    page_hits_memory_total: int = 0
    page_hits_redis_total: int = 0
    page_misses_total: int = 0
    page_bytes_fetched_total: int = 0
    page_fetches_chosen_total: int = 0
    page_fetches_declined_total: int = 0
    page_fetches_refused_total: int = 0
    page_fetches_failed_total: int = 0
    page_wait_seconds_total: float = 0.0
    page_fetch_seconds_total: float = 0.0
    page_fetch_error_seconds_total: float = 0.0

    def as_metrics(self) -> dict[str, float]:
        return {name: float(value) for name, value in asdict(self).items()}
