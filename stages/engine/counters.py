"""What an engine counts since it started. Knows no Prometheus; `StageMetrics` in `stages/contract/item.py` carries the numbers on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from stages.contract.histogram import ITEMS, Histogram, HistogramCounts


@dataclass(slots=True)
class Counters:
    """`items_total` counts accepted items, however they ended; `batch_items_total` counts an item once for every batch or step
    that it was in. Owned by an engine, and changed under its lock only.
    """

    items_total: int = 0
    continued_total: int = 0
    batches_total: int = 0
    batch_items_total: int = 0
    steps_total: int = 0
    device_seconds_total: float = 0.0
    cancelled_total: int = 0
    failed_total: int = 0
    expired_total: int = 0
    rejected_total: int = 0
    preempted_total: int = 0
    out_of_memory_total: int = 0
    missing_inputs_total: int = 0

    def as_metrics(self) -> dict[str, float]:
        return {name: float(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Distributions:
    """How an engine's times and batches spread, under its lock as `Counters` are. `StageMetrics.histograms` says what each means."""

    queue_seconds: Histogram = field(default_factory=Histogram)
    item_seconds: Histogram = field(default_factory=Histogram)
    step_seconds: Histogram = field(default_factory=Histogram)
    batch_size: Histogram = field(default_factory=lambda: Histogram(ITEMS))
    between_events_seconds: Histogram = field(default_factory=Histogram)

    def counts(self, *, has_events: bool) -> Mapping[str, HistogramCounts]:
        told = {
            "queue_seconds": self.queue_seconds,
            "item_seconds": self.item_seconds,
            "step_seconds": self.step_seconds,
            "batch_size": self.batch_size,
        }
        if has_events:
            told["between_events_seconds"] = self.between_events_seconds
        return {name: histogram.counts() for name, histogram in told.items()}
