"""What an engine counts since it started. Knows no Prometheus; `StageMetrics` in `stages/contract/item.py` carries the numbers on."""

from dataclasses import asdict, dataclass


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
